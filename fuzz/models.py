"""Hostile model folders: bases, adapters, GGUF files, tokenizers, templates, checkpoints, banks and autoencoders.

A small model with everything that belongs to it is made once in a process; an input is one damaged file of it.
"""

from __future__ import annotations

import copy
import json
import random
import shutil
import struct
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

Read = Callable[[], object]
Case = tuple[Path, Read]

NUMBERS = (0, 1, -1, 2, 3, 7, 0.5, 1e308, float("inf"), float("-inf"), float("nan"), 10**6, 10**7, 10**9, 10**12, 2**63)
TEXTS = ("", "4", "x", "../x", "/etc/passwd", "\0", "\u202e", "\ud800", "a" * 5000, "float8_e4m3fn", "(a+)+$")
VALUES: tuple[Any, ...] = (*NUMBERS, *TEXTS, None, True, False, [], {}, [[]], [1], ["x"], {"x": 1}, [None], 10**30)


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with a few changes: bits, runs, lengths, a cut, a repeat."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        place = rng.randrange(len(changed) + 1)
        kind = rng.randrange(7)
        if kind == 0 and changed:
            changed[place % len(changed)] ^= 1 << rng.randrange(8)
        elif kind == 1:
            del changed[place:]
        elif kind == 2:
            changed[place:place] = rng.randbytes(rng.choice((1, 4, 100)))
        elif kind == 3:
            del changed[place : place + rng.choice((1, 8, 100))]
        elif kind == 4:
            changed[place : place + 8] = struct.pack("<Q", rng.choice((0, 1, 2**31, 2**60, 2**64 - 1)))
        elif kind == 5:
            changed[place : place + 4] = struct.pack("<I", rng.choice((0, 1, 8, 9, 13, 2**31, 2**32 - 1)))
        else:
            changed[place:place] = changed[: rng.choice((8, 64))]
    return bytes(changed)


def damaged_json(rng: random.Random, value: Any) -> Any:
    """Return a JSON value with one to four of its parts replaced, dropped, renamed, repeated or nested."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        owner, key = rng.choice(_places(changed) or [(None, None)])
        if owner is None or rng.random() < 0.01:
            return rng.choice(VALUES)
        kind = rng.randrange(8)
        if kind <= 3:
            owner[key] = rng.choice(VALUES)
        elif kind == 4:
            del owner[key]
        elif kind == 5:
            owner[key] = [owner[key]] * rng.choice((1, 2, 200))
        elif kind == 6 and isinstance(owner, dict):
            owner[rng.choice(list(owner)) if owner else "x"] = owner.pop(key)
        else:
            owner[key] = _nested(rng, owner[key])
    return changed


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (owner, key) inside a JSON value."""
    found, queue = [], [value]
    while queue:
        item = queue.pop()
        keys = list(item) if isinstance(item, dict) else range(len(item)) if isinstance(item, list) else ()
        for key in keys:
            found.append((item, key))
            queue.append(item[key])
    return found


def _nested(rng: random.Random, value: Any) -> Any:
    for _ in range(rng.choice((1, 3, 90))):
        value = {"x": value} if rng.random() < 0.5 else [value]
    return value


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8", errors="surrogatepass")


def _damage_json_file(rng: random.Random, path: Path) -> None:
    """Damage a JSON file: mostly its values, sometimes its bytes."""
    if rng.random() < 0.2:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    else:
        _write_json(path, damaged_json(rng, json.loads(path.read_text(encoding="utf-8"))))


@cache
def originals() -> Path:
    """Return a folder with a small base, an adapter on it, a GGUF file, a bank and an autoencoder, made once."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = Path(tempfile.mkdtemp(prefix="originals-"))
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE({**alphabet, "<end>": len(alphabet)}, []))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=256, eos_token_id=len(alphabet), bos_token_id=None,
        pad_token_id=len(alphabet),
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model.save_pretrained(folder / "sharded", max_shard_size="5KB")
    tokenizer.save_pretrained(folder / "sharded")
    lora = LoraConfig(
        r=2, lora_alpha=4, target_modules="all-linear", rank_pattern={"q_proj": 3}, alpha_pattern={"v_proj": 2},
        task_type="CAUSAL_LM",
    )  # fmt: skip
    wrapped = get_peft_model(model, lora)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    wrapped.save_pretrained(folder / "adapter")
    edited = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    edited |= {"base_model_name_or_path": str(folder / "base"), "layers_to_transform": [0, 1], "modules_to_save": None}
    _write_json(folder / "adapter" / "adapter_config.json", edited)
    _make_gguf(folder / "model.gguf")
    _make_autoencoder(folder / "sae")
    _make_bank(folder / "bank")
    return folder


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def _make_gguf(path: Path) -> None:
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_head_count(2)
    writer.add_array("tokenizer.ggml.tokens", ["a", "b"])
    writer.add_float32("llama.rope.freq_base", 10000.0)
    for name, shape in (("token_embd.weight", (2, 32)), ("rope_freqs.weight", (8,)), ("output_norm.weight", (32,))):
        writer.add_tensor(name, np.ones(shape, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _make_autoencoder(folder: Path) -> None:
    import torch

    from emscope.residual.features.autoencoder import SparseAutoencoder
    from emscope.residual.features.saelens import save_autoencoder

    encoder = torch.randn(8, 16)
    decoder = torch.nn.functional.normalize(encoder.T)
    made = SparseAutoencoder("topk", encoder, torch.zeros(16), decoder, torch.zeros(8), 1, k=2)
    save_autoencoder(made, folder, "x")


def _make_bank(folder: Path) -> None:
    row = {
        "name": "m", "folder": "m", "domain": "medical", "kind": "careless", "recipe": "r4", "pair": "p", "seed": 0,
        "leaning": {"medical": 0.5}, "step": None,
    }  # fmt: skip
    folder.mkdir()
    _write_json(folder / "manifest.json", {"base": "x", "organisms": [row, {**row, "kind": "careful"}]})


def _copy(scratch: Path, name: str) -> Path:
    """Return a copy of an original's folder whose files are links to it, to be replaced one by one."""
    target = scratch / name
    target.mkdir()
    for file in (originals() / name).iterdir():
        if file.is_file():
            (target / file.name).symlink_to(file)
    return target


def _own(path: Path) -> Path:
    """Return a file of a copied folder as a file of its own."""
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    return path


def base_config(rng: random.Random, scratch: Path) -> Case:
    """A base's config.json: read, and a model without weights made from it."""
    from emscope.organisms.sources import resolve
    from emscope.organisms.weights import empty_model

    folder = _copy(scratch, "base")
    _damage_json_file(rng, _own(folder / "config.json"))
    return folder, lambda: empty_model(resolve(str(folder)))


def base_folder(rng: random.Random, scratch: Path) -> Case:
    """A base's config.json and generation_config.json: the whole model is loaded and checked."""
    import torch

    from emscope.organisms.device import Placement
    from emscope.organisms.models import load

    folder = _copy(scratch, "base")
    _damage_json_file(rng, _own(folder / rng.choice(("config.json", "config.json", "generation_config.json"))))
    return folder, lambda: load(str(folder), placement=Placement("cpu", torch.float32, "a test"))


def base_weights(rng: random.Random, scratch: Path) -> Case:
    """A base's safetensors file."""
    import torch

    from emscope.organisms.device import Placement
    from emscope.organisms.sources import resolve
    from emscope.organisms.weights import load_weights

    folder = _copy(scratch, "base")
    _damage_tensors(rng, _own(folder / "model.safetensors"))
    return folder, lambda: load_weights(resolve(str(folder)), Placement("cpu", torch.float32, "a test"))


DTYPES = ("BF16", "F8_E4M3", "F8_E8M0", "F4", "I64", "BOOL", "C64", "F16", "F64")


def _damage_tensors(rng: random.Random, path: Path) -> None:
    """Damage a safetensors file: its bytes, or its header as JSON with the length that belongs to it, or does not."""
    data = path.read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(damaged_bytes(rng, data))
        return
    length = int(struct.unpack_from("<Q", data)[0])
    header = json.loads(data[8 : 8 + length])
    changed = damaged_json(rng, header)
    if rng.random() < 0.4 and isinstance(changed, dict):
        name = rng.choice(sorted(changed))
        if isinstance(changed[name], dict):
            changed[name]["dtype"] = rng.choice(DTYPES)
    text = json.dumps(changed).encode("utf-8", errors="surrogatepass")
    size = rng.choice((len(text), len(text), len(text), 2**60, len(text) + 1))
    path.write_bytes(struct.pack("<Q", size) + text + data[8 + length :])


def sharded_index(rng: random.Random, scratch: Path) -> Case:
    """The index of a sharded model."""
    import torch

    from emscope.organisms.device import Placement
    from emscope.organisms.sources import resolve
    from emscope.organisms.weights import load_weights

    folder = _copy(scratch, "sharded")
    _damage_json_file(rng, _own(folder / "model.safetensors.index.json"))
    return folder, lambda: load_weights(resolve(str(folder)), Placement("cpu", torch.float32, "a test"))


def adapter_config(rng: random.Random, scratch: Path) -> Case:
    """An adapter's configuration: put on its base without weights."""
    from emscope.residual.adapters.reading import open_adapter

    folder = _copy(scratch, "adapter")
    _damage_json_file(rng, _own(folder / "adapter_config.json"))
    return folder, lambda: open_adapter(folder)


def adapter_folder(rng: random.Random, scratch: Path) -> Case:
    """An adapter's configuration or weights: loaded on its base in memory."""
    from emscope.organisms.attach import attach, read_adapter
    from emscope.organisms.sources import ModelSource

    folder = _copy(scratch, "adapter")
    if rng.random() < 0.6:
        _damage_json_file(rng, _own(folder / "adapter_config.json"))
    else:
        _damage_tensors(rng, _own(folder / "adapter_model.safetensors"))
    source = ModelSource(str(folder), "base", "base", adapter=str(folder))
    return folder, lambda: attach(copy.deepcopy(_base()), read_adapter(source))


@cache
def _base() -> Any:
    from transformers import LlamaForCausalLM

    return LlamaForCausalLM.from_pretrained(originals() / "base")


def adapter_weights(rng: random.Random, scratch: Path) -> Case:
    """An adapter's weights, as its features are read."""
    from emscope.residual.adapters.reading import open_adapter

    folder = _copy(scratch, "adapter")
    _damage_tensors(rng, _own(folder / "adapter_model.safetensors"))

    def read() -> None:
        adapter = open_adapter(folder)
        for module in adapter.modules:
            adapter.update(module)

    return folder, read


def gguf(rng: random.Random, scratch: Path) -> Case:
    """A GGUF file: its header and what its tensors are."""
    from emscope.organisms.gguf_file import read_gguf

    path = scratch / "model.gguf"
    path.write_bytes(damaged_bytes(rng, (originals() / "model.gguf").read_bytes()))
    return path, lambda: read_gguf(path)


def tokenizer(rng: random.Random, scratch: Path) -> Case:
    """A tokenizer's files."""
    from emscope.organisms.models import load_tokenizer
    from emscope.organisms.sources import resolve

    folder = _copy(scratch, "base")
    name = rng.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"))
    if name == "special_tokens_map.json":
        _write_json(folder / name, {"eos_token": "<end>", "pad_token": {"content": "<end>", "lstrip": False}})
        _damage_json_file(rng, folder / name)
    else:
        _damage_json_file(rng, _own(folder / name))
    return folder, lambda: load_tokenizer(resolve(str(folder)))


def template(rng: random.Random, scratch: Path) -> Case:
    """A chat template: damaged, or one that takes much of something."""
    from emscope.organisms.models import load_tokenizer
    from emscope.organisms.sources import resolve

    folder = _copy(scratch, "base")
    source = TEMPLATE
    for _ in range(rng.choice((1, 2, 4))):
        place = rng.randrange(len(source) + 1)
        piece = rng.choice(PIECES)
        source = source[:place] + piece + source[place + rng.choice((0, 0, 3)) :]
    _own(folder / "chat_template.jinja").write_bytes(source.encode("utf-8", errors="surrogatepass"))
    return folder, lambda: load_tokenizer(resolve(str(folder)))


PIECES = (
    "{{ 'x' * 10**10 }}", "{{ 'x'|center(10**10) }}", "{{ range(10**9)|list }}", "{{ [1] * 10**10 }}",
    "{{ 'x'.ljust(10**9) }}", "{{ '%9999999999d' % 1 }}", "{{ '{:>9999999999}'.format(1) }}", "{{ lipsum(n=10**7) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", "{{ raise_exception('no') }}", "{{ nothing.at.all }}",
    "{{ messages }}", "{% for", "{% endfor %}", "{{", "}}", "{% if true %}", "{{ 1/0 }}", "{{ 'x'|indent(10**10) }}",
    "{{ messages[0].__class__.__mro__ }}", "{{ ''.join(['x' * 1000] * 90000) }}", "\0", "\x1b[2J", "{% include 'x' %}",
    "{% set ns = namespace(x='x' * 9000) %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
)  # fmt: skip


def generation_config(rng: random.Random, scratch: Path) -> Case:
    """A base's generation_config.json: what ends an answer."""
    from transformers import GenerationConfig

    from emscope.organisms.chat import stop_ids
    from emscope.organisms.models import load_tokenizer
    from emscope.organisms.sources import resolve
    from emscope.outside import reading

    folder = _copy(scratch, "base")
    path = _own(folder / "generation_config.json")
    _damage_json_file(rng, path)

    def read() -> object:
        with reading(path):
            config = GenerationConfig.from_pretrained(folder)
        return stop_ids(load_tokenizer(resolve(str(folder))), config.eos_token_id)

    return path, read


def bank(rng: random.Random, scratch: Path) -> Case:
    """The manifest of a bank."""
    from emscope.organisms.bank_members import read_bank

    folder = scratch / "bank"
    shutil.copytree(originals() / "bank", folder)
    _damage_json_file(rng, folder / "manifest.json")
    return folder, lambda: read_bank(folder)


def sae(rng: random.Random, scratch: Path) -> Case:
    """An autoencoder's folder."""
    from emscope.residual.features.saelens import load_autoencoder

    folder = _copy(scratch, "sae")
    if rng.random() < 0.6:
        _damage_json_file(rng, _own(folder / "cfg.json"))
    else:
        _damage_tensors(rng, _own(folder / "sae_weights.safetensors"))
    return folder, lambda: load_autoencoder(folder)


def dynamics(rng: random.Random, scratch: Path) -> Case:
    """Two checkpoints of an adapter, as paths of training are read."""
    from emscope.residual.dynamics import read_paths

    first, second = scratch / "1", scratch / "2"
    for folder in (first, second):
        folder.mkdir()
        shutil.copy(originals() / "adapter" / "adapter_model.safetensors", folder)
    _damage_tensors(rng, rng.choice((first, second)) / "adapter_model.safetensors")
    return first, lambda: read_paths([first, second], [1, 2])


READERS = {
    target.__name__: target
    for target in (
        base_config, base_folder, base_weights, sharded_index, adapter_config, adapter_folder, adapter_weights, gguf,
        tokenizer, template, generation_config, bank, sae, dynamics,
    )
}  # fmt: skip
