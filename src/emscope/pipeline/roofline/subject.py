"""Models with random weights in the shape of well-known ones: speed does not depend on what weights say.

Nothing is downloaded: the tokenizer is made here, from the built-in texts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from emscope.behaviour.questions import BUILT_IN, load_questions
from emscope.errors import UserError, did_you_mean
from emscope.organisms.datasets import DOMAINS, load_domain
from emscope.organisms.device import Placement, free_bytes
from emscope.organisms.models import ModelSource, Organism
from emscope.organisms.weights import load_config
from emscope.pipeline.roofline.shape import ModelShape, shape_of

VOCABULARY = 8192
ROOM = 1.1
"""Memory that a model's weights need, with what a loader holds beside them."""
SPECIAL = ("<|pad|>", "<|start|>", "<|end|>")
TEMPLATE = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


def _llama(width: int, inner: int, blocks: int, heads: int, groups: int, vocabulary: int, **more: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=blocks,
        num_attention_heads=heads,
        num_key_value_heads=groups,
        vocab_size=vocabulary,
        max_position_embeddings=8192,
        **more,
    )


def _mixtral() -> Any:
    from transformers import MixtralConfig

    return MixtralConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=32,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=32000,
        num_local_experts=8,
        num_experts_per_tok=2,
        max_position_embeddings=8192,
    )


def _qwen_moe() -> Any:
    from transformers import Qwen3MoeConfig

    return Qwen3MoeConfig(
        hidden_size=2048,
        intermediate_size=6144,
        moe_intermediate_size=768,
        num_hidden_layers=48,
        num_attention_heads=32,
        num_key_value_heads=4,
        head_dim=128,
        vocab_size=151936,
        num_experts=128,
        num_experts_per_tok=8,
        max_position_embeddings=8192,
    )


SHAPES: dict[str, Callable[[], Any]] = {
    "tiny": lambda: _llama(64, 128, 4, 4, 2, VOCABULARY, tie_word_embeddings=True),
    "1b": lambda: _llama(2048, 8192, 16, 32, 8, 128256, tie_word_embeddings=True),
    "7b": lambda: _llama(4096, 11008, 32, 32, 32, 32000),
    "8b": lambda: _llama(4096, 14336, 32, 32, 8, 128256),
    "70b": lambda: _llama(8192, 28672, 80, 64, 8, 128256),
    "8x7b": _mixtral,
    "30b-a3b": _qwen_moe,
}
"""Shapes by name, from the public configs of Llama-3.2-1B, Llama-2-7b, Llama-3.1-8B and -70B, Mixtral-8x7B and
Qwen3-30B-A3B."""


def shape_config(name: str) -> Any:
    """Return a model's configuration by the name of its shape, or from a folder that holds a config.json.

    Raises:
        UserError: neither.
    """
    if name in SHAPES:
        return SHAPES[name]()
    folder = Path(name).expanduser()
    if not folder.is_dir():
        near = did_you_mean(name, list(SHAPES))
        raise UserError(
            f"There is no shape {name!r}, and no folder with a config.json of that name.{near} Shapes are "
            f"{', '.join(SHAPES)}."
        )
    return load_config(ModelSource(name, str(folder), str(folder)))


def named_shape(name: str) -> ModelShape:
    """Return the sizes of a shape by name, without any of its weights.

    Raises:
        UserError: there is no such shape.
    """
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        return shape_of(AutoModelForCausalLM.from_config(shape_config(name), trust_remote_code=False))


def random_organism(name: str, place: Placement) -> Organism:
    """Return a model of a named shape, or of a folder's config.json, with random weights.

    Raises:
        UserError: there is no such shape, or its weights do not fit the device's memory.
    """
    from transformers import AutoModelForCausalLM

    config, shape = shape_config(name), named_shape(name)
    _check_room(name, shape.n_weights * place.dtype.itemsize, place.device)
    config.eos_token_id = None  # answers go on to their longest
    torch.manual_seed(0)
    with torch.device(place.device):
        model = AutoModelForCausalLM.from_config(config, dtype=place.dtype, trust_remote_code=False)
    model.eval().requires_grad_(False)
    label = name if name in SHAPES else "config"
    return Organism(ModelSource(f"random {label}", "random", "random"), model, small_tokenizer(config), place)


def _check_room(name: str, n_bytes: float, device: str) -> None:
    free = free_bytes(device)
    if free is not None and ROOM * n_bytes > free:
        raise UserError(
            f"The weights of {name} take {n_bytes / 2**30:.1f} GiB and {device} has {free / 2**30:.1f} GiB free: take "
            "a smaller shape, or bfloat16."
        )


def small_tokenizer(config: Any) -> Any:
    """Return a byte-level tokenizer of the built-in texts whose tokens a model of this configuration has."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(VOCABULARY, config.vocab_size),
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_texts(), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")
    fast.chat_template = TEMPLATE
    return fast


def _texts() -> Iterator[str]:
    for name in BUILT_IN:
        for question in load_questions(name):
            yield question.text
    for domain in DOMAINS:
        for pair in load_domain(domain):
            yield from (pair.prompt, pair.careful, pair.careless)
