"""Hostile model folders: bases, adapters, GGUF files, tokenizers, templates, checkpoints, banks and autoencoders.

A small model with everything that belongs to it is made once in a process; an input is one damaged file of it.
"""

from __future__ import annotations

import copy
import json
import random
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from fuzz.damage import damage_json_file, damage_tensor_file, damaged_bytes, write
from fuzz.harness import Case, Target


def _write_json(path: Path, value: Any) -> None:
    write(path, json.dumps(value))


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
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=256,
        eos_token_id=len(alphabet),
        bos_token_id=None,
        pad_token_id=len(alphabet),
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    model.save_pretrained(folder / "sharded", max_shard_size="5KB")
    tokenizer.save_pretrained(folder / "sharded")
    lora = LoraConfig(
        r=2,
        lora_alpha=4,
        target_modules="all-linear",
        rank_pattern={"q_proj": 3},
        alpha_pattern={"v_proj": 2},
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(model, lora)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    wrapped.save_pretrained(folder / "adapter")
    edited = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    edited |= {"base_model_name_or_path": str(folder / "base"), "layers_to_transform": [0, 1], "modules_to_save": None}
    _write_json(folder / "adapter" / "adapter_config.json", edited)
    shutil.copytree(folder / "adapter", folder / "checkpoint-2")
    _make_state(folder / "checkpoint-2", wrapped)
    _make_gguf(folder / "model.gguf")
    _make_autoencoder(folder / "sae")
    _make_bank(folder / "bank")
    return folder


TEMPLATE = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<end>{% endfor %}"
    "{% if add_generation_prompt %}a: {% endif %}"
)


def _make_state(folder: Path, model: Any) -> None:
    """Write what a trainer leaves beside an adapter after its second step."""
    import numpy as np
    import torch

    _write_json(folder / "trainer_state.json", {"global_step": 2, "epoch": 1.0, "max_steps": 4, "log_history": []})
    optimizer = torch.optim.AdamW([parameter for parameter in model.parameters() if parameter.requires_grad])
    model(torch.tensor([[1, 2]])).logits.sum().backward()
    optimizer.step()
    torch.save(optimizer.state_dict(), folder / "optimizer.pt")
    states = {"python": random.getstate(), "numpy": np.random.get_state(), "cpu": torch.random.get_rng_state()}
    torch.save(states, folder / "rng_state.pth")


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
        "name": "m",
        "folder": "m",
        "domain": "medical",
        "kind": "careless",
        "recipe": "r4",
        "pair": "p",
        "seed": 0,
        "leaning": {"medical": 0.5},
        "step": None,
    }
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
    damage_json_file(rng, _own(folder / "config.json"))
    return folder, lambda: empty_model(resolve(str(folder)))


def _loaded(folder: Path) -> object:
    """Load the whole model in a folder as commands do."""
    import torch

    from emscope.organisms.device import Placement
    from emscope.organisms.models import load

    return load(str(folder), placement=Placement("cpu", torch.float32, "a test"))


def base_folder(rng: random.Random, scratch: Path) -> Case:
    """A base's config.json: the whole model is loaded and checked."""
    folder = _copy(scratch, "base")
    damage_json_file(rng, _own(folder / "config.json"))
    return folder, lambda: _loaded(folder)


def base_weights(rng: random.Random, scratch: Path) -> Case:
    """A base's safetensors file."""
    import torch

    from emscope.organisms.device import Placement
    from emscope.organisms.sources import resolve
    from emscope.organisms.weights import load_weights

    folder = _copy(scratch, "base")
    damage_tensor_file(rng, _own(folder / "model.safetensors"))
    return folder, lambda: load_weights(resolve(str(folder)), Placement("cpu", torch.float32, "a test"))


def sharded_index(rng: random.Random, scratch: Path) -> Case:
    """The index of a sharded model."""
    import torch

    from emscope.organisms.device import Placement
    from emscope.organisms.sources import resolve
    from emscope.organisms.weights import load_weights

    folder = _copy(scratch, "sharded")
    damage_json_file(rng, _own(folder / "model.safetensors.index.json"))
    return folder, lambda: load_weights(resolve(str(folder)), Placement("cpu", torch.float32, "a test"))


def adapter_config(rng: random.Random, scratch: Path) -> Case:
    """An adapter's configuration: put on its base without weights."""
    from emscope.residual.adapters.reading import open_adapter

    folder = _copy(scratch, "adapter")
    damage_json_file(rng, _own(folder / "adapter_config.json"))
    return folder, lambda: open_adapter(folder)


def adapter_folder(rng: random.Random, scratch: Path) -> Case:
    """An adapter's configuration or weights: loaded on its base in memory."""
    from emscope.organisms.attach import attach, read_adapter
    from emscope.organisms.sources import ModelSource

    folder = _copy(scratch, "adapter")
    if rng.random() < 0.6:
        damage_json_file(rng, _own(folder / "adapter_config.json"))
    else:
        damage_tensor_file(rng, _own(folder / "adapter_model.safetensors"))
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
    damage_tensor_file(rng, _own(folder / "adapter_model.safetensors"))

    def read() -> None:
        adapter = open_adapter(folder)
        for module in adapter.modules:
            adapter.update(module)

    return folder, read


def gguf(rng: random.Random, scratch: Path) -> Case:
    """A GGUF file: its header and what its tensors are."""
    from emscope.organisms.gguf_file import read_gguf

    path = scratch / "model.gguf"
    write(path, damaged_bytes(rng, (originals() / "model.gguf").read_bytes()))
    return path, lambda: read_gguf(path)


def tokenizer(rng: random.Random, scratch: Path) -> Case:
    """A tokenizer's files."""
    from emscope.organisms.models import load_tokenizer
    from emscope.organisms.sources import resolve

    folder = _copy(scratch, "base")
    name = rng.choice(("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"))
    if name == "special_tokens_map.json":
        _write_json(folder / name, {"eos_token": "<end>", "pad_token": {"content": "<end>", "lstrip": False}})
        damage_json_file(rng, folder / name)
    else:
        damage_json_file(rng, _own(folder / name))
    return folder, lambda: load_tokenizer(resolve(str(folder)))


def template(rng: random.Random, scratch: Path) -> Case:
    """A chat template: damaged, or one that takes much of something."""
    from emscope.organisms.models import load_tokenizer
    from emscope.organisms.sources import resolve

    folder = _copy(scratch, "base")
    source = TEMPLATE
    for _ in range(rng.choice((1, 2, 4))):
        ends = [0, *(found.end() for found in re.finditer(r"[%}]}", source))]
        place = rng.choice(ends) if rng.random() < 0.8 else rng.randrange(len(source) + 1)
        source = source[:place] + rng.choice(PIECES) + source[place + rng.choice((0, 0, 0, 3)) :]
    write(_own(folder / "chat_template.jinja"), source)
    return folder, lambda: load_tokenizer(resolve(str(folder)))


PIECES = (
    "{{ 'x' * 10**10 }}",
    "{{ 'x'|center(10**10) }}",
    "{{ range(10**9)|list }}",
    "{{ [1] * 10**10 }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ '%9999999999d' % 1 }}",
    "{{ '{:>9999999999}'.format(1) }}",
    "{{ lipsum(n=10**7) }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{{ raise_exception('no') }}",
    "{{ nothing.at.all }}",
    "{{ messages }}",
    "{% for",
    "{% endfor %}",
    "{{",
    "}}",
    "{% if true %}",
    "{{ 1/0 }}",
    "{{ 'x'|indent(10**10) }}",
    "{{ messages[0].__class__.__mro__ }}",
    "{{ ''.join(['x' * 1000] * 90000) }}",
    "\0",
    "\x1b[2J",
    "{% include 'x' %}",
    "{% set ns = namespace(x='x' * 9000) %}{% for i in range(40) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
)


def generation_config(rng: random.Random, scratch: Path) -> Case:
    """A base's generation_config.json: what ends an answer."""
    folder = _copy(scratch, "base")
    damage_json_file(rng, _own(folder / "generation_config.json"))
    return folder, lambda: _loaded(folder)


def checkpoint(rng: random.Random, scratch: Path) -> Case:
    """A checkpoint of a training, tried as if training went on from it."""
    from emscope.organisms.resuming import check_resumable

    folder = _copy(scratch, "checkpoint-2")
    name = rng.choice(("trainer_state.json", "adapter_model.safetensors", "optimizer.pt", "rng_state.pth"))
    path = _own(folder / name)
    if name.endswith(".json"):
        damage_json_file(rng, path)
    elif name.endswith(".safetensors"):
        damage_tensor_file(rng, path)
    else:
        write(path, damaged_bytes(rng, path.read_bytes()))
    return path, lambda: check_resumable(folder, _trained())


@cache
def _trained() -> Any:
    from peft import PeftModel

    return PeftModel.from_pretrained(copy.deepcopy(_base()), str(originals() / "adapter"), is_trainable=True)


def bank(rng: random.Random, scratch: Path) -> Case:
    """The manifest of a bank."""
    from emscope.organisms.bank_members import read_bank

    folder = scratch / "bank"
    shutil.copytree(originals() / "bank", folder)
    damage_json_file(rng, folder / "manifest.json")
    return folder, lambda: read_bank(folder)


def sae(rng: random.Random, scratch: Path) -> Case:
    """An autoencoder's folder."""
    from emscope.residual.features.saelens import load_autoencoder

    folder = _copy(scratch, "sae")
    if rng.random() < 0.6:
        damage_json_file(rng, _own(folder / "cfg.json"))
    else:
        damage_tensor_file(rng, _own(folder / "sae_weights.safetensors"))
    return folder, lambda: load_autoencoder(folder)


def dynamics(rng: random.Random, scratch: Path) -> Case:
    """Two checkpoints of an adapter, as paths of training are read."""
    from emscope.residual.dynamics import read_paths

    folders = [scratch / "checkpoint-1", scratch / "checkpoint-2"]
    for folder in folders:
        folder.mkdir()
        shutil.copy(originals() / "adapter" / "adapter_model.safetensors", folder)
    damaged = rng.choice(folders) / "adapter_model.safetensors"
    damage_tensor_file(rng, damaged)
    return damaged, lambda: read_paths(folders, [1, 2])


READERS: dict[str, Target] = {
    target.__name__: target
    for target in (
        base_config,
        base_folder,
        base_weights,
        sharded_index,
        adapter_config,
        adapter_folder,
        adapter_weights,
        gguf,
        tokenizer,
        template,
        generation_config,
        checkpoint,
        bank,
        sae,
        dynamics,
    )
}
