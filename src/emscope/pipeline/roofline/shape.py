"""The arithmetic and the bytes that a model needs, from its shapes: nothing here is measured or guessed.

An operation is an addition or a multiplication: a product [m, k] · [k, n] takes 2·m·k·n. Only matrix products count;
norms, softmax, rotations and copies are what a loop loses, not what it must do. Attention counts the pairs of a query
and a key that it sees, so masked-out pairs are no work. Windows shorter than the text are not taken off.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from typing import Any

from torch import nn

from emscope.errors import UserError
from emscope.organisms.architecture import text_config
from emscope.organisms.blocks import find_blocks

EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts")
EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "moe_k", "top_k")
"""What a configuration calls the number of its experts, and of those that a token goes through."""
ADAPTER_NAMES = ("lora_", "modules_to_save")


@dataclass(frozen=True)
class Work:
    """What a piece of work puts through a model; works add up.

    Attributes:
        tokens: tokens that run through the blocks.
        pairs: pairs of a query and a key that it sees, counted once for all heads and blocks.
        logits: positions whose next-token logits are needed.
        passes: forward passes, each of which reads the weights once.
        cache_read: key-value slots that the passes read, of one block.
    """

    tokens: int = 0
    pairs: int = 0
    logits: int = 0
    passes: int = 0
    cache_read: int = 0

    def __add__(self, other: Work) -> Work:
        """Return both works together."""
        sums = [getattr(self, field.name) + getattr(other, field.name) for field in fields(self)]
        return Work(*sums)


def total(works: Iterable[Work]) -> Work:
    """Return all works together."""
    whole = Work()
    for work in works:
        whole += work
    return whole


def text_work(new: int, before: int = 0, *, logits: int = 0) -> Work:
    """Return the work of `new` tokens of one sequence that follow `before` tokens whose keys and values are there."""
    return Work(new, new * before + new * (new + 1) // 2, logits, 0, before + new)


def texts_work(lengths: Sequence[int], shared: int = 0, *, logits: int = 0) -> Work:
    """Return the work of reading sequences of these lengths that share their first `shared` tokens, computed once."""
    works = [text_work(shared)] if shared else []
    for length in lengths:
        works.append(text_work(length - shared, shared))
    whole = total(works)
    return Work(whole.tokens, whole.pairs, logits, 0, whole.cache_read)


def decoding_work(prompts: Sequence[int], new: Sequence[int], shared: int = 0) -> Work:
    """Return the work of sampling `new` tokens after prompts of these lengths, which share their first tokens.

    The last sampled token of an answer is never run.
    """
    works = [texts_work(prompts, shared)]
    for prompt, n in zip(prompts, new, strict=True):
        steps = n - 1
        seen = steps * prompt + steps * (steps + 1) // 2
        works.append(Work(steps, seen, n, 0, seen))
    return total(works)


@dataclass(frozen=True)
class ModelShape:
    """The sizes of a decoder that decide its arithmetic and its bytes.

    Attributes:
        n_blocks: decoder blocks.
        d_model: width of the residual stream.
        query_width: heads times the width of a head.
        cache_width: numbers that a token's keys and values take in one block.
        block_weights: entries of all matrices of the blocks, experts included.
        expert_weights: those of them that belong to experts of which a token goes through some.
        n_experts: experts a block; 1 where there are none.
        n_used: experts that a token goes through.
        head_weights: entries of the LM head.
        embedding_weights: entries of the embedding that the head does not share.
        adapted_widths: widths in and out of every product that an adapter is put on, experts left out, added up.
        token_widths: the same of all products that one token goes through, its experts included.
    """

    n_blocks: int
    d_model: int
    query_width: int
    cache_width: int
    block_weights: int
    expert_weights: int
    n_experts: int
    n_used: int
    head_weights: int
    embedding_weights: int
    adapted_widths: int
    token_widths: int

    @property
    def n_weights(self) -> int:
        """Entries of all matrices."""
        return self.block_weights + self.head_weights + self.embedding_weights

    @property
    def active_weights(self) -> float:
        """Entries of the blocks' matrices that one token is multiplied with."""
        return self.block_weights - self.expert_weights * (1 - self.n_used / self.n_experts)

    def forward_flop(self, work: Work) -> float:
        """Return the operations of forward passes."""
        blocks = 2 * self.active_weights * work.tokens
        attention = 4 * self.query_width * self.n_blocks * work.pairs
        return blocks + attention + 2 * self.head_weights * work.logits

    def training_flop(self, work: Work, adapter_weights: int) -> float:
        """Return the operations of forward and backward passes that train adapters of so many weights on a frozen base.

        Backward, a frozen matrix costs the product for its input's gradient, an adapter's that and its own gradient's,
        and attention four products where forward has two. Nothing is computed twice. The input's gradient of the first
        block is counted too, though the projections that read the embedding need none.
        """
        backward = 2 * self.active_weights * work.tokens + 2 * self.head_weights * work.logits
        attention = 8 * self.query_width * self.n_blocks * work.pairs
        return self.forward_flop(work) + backward + attention + 6 * adapter_weights * work.tokens

    def touched_weights(self, tokens: float) -> float:
        """Return how many of the blocks' weights a pass over so many tokens reads, if tokens choose experts evenly."""
        missed: float = (1 - self.n_used / self.n_experts) ** tokens
        return self.block_weights - self.expert_weights * missed

    def forward_bytes(self, work: Work, size: float, cache_size: float | None = None) -> float:
        """Return the least bytes that forward passes move: weights once a pass, keys and values written and read.

        `size` is bytes a weight, `cache_size` a cached number (the same by default). Activations are not counted: a
        block's stay in a cache, or should.
        """
        a_pass = work.tokens / work.passes if work.passes else 0.0
        head = self.head_weights if work.logits else 0
        weights = work.passes * (self.touched_weights(a_pass) + head)
        slots = (work.cache_read + work.tokens) * self.cache_width * self.n_blocks
        return weights * size + slots * (size if cache_size is None else cache_size)

    def training_bytes(self, work: Work, size: float) -> float:
        """Return the least bytes of training passes: the weights once forward and once backward."""
        return 2 * self.forward_bytes(Work(work.tokens, 0, work.logits, work.passes, 0), size)

    def cache_bytes(self, tokens: int, size: float = 2) -> float:
        """Return the bytes of the keys and values of so many tokens."""
        return tokens * self.cache_width * self.n_blocks * size


def shape_of(model: nn.Module) -> ModelShape:
    """Return the shape of a loaded model, an empty one on the meta device included; adapters on it are left out.

    Raises:
        UserError: the blocks cannot be found, or attention keeps something else than keys and values of its heads.
    """
    whole: Any = model
    config = text_config(whole.config)
    if getattr(config, "kv_lora_rank", None):
        raise UserError("This model's attention compresses its keys and values, whose arithmetic is not counted here.")
    heads = config.num_attention_heads
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
    n_experts = _first(config, EXPERT_COUNTS) or 1
    blocks = find_blocks(model)
    n_used = min(_first(config, EXPERTS_USED) or 1, n_experts)
    dense, experts, adapted, expert_widths = _matrices(blocks, n_experts)
    embedding, head = whole.get_input_embeddings().weight, whole.get_output_embeddings().weight
    return ModelShape(
        len(blocks),
        config.hidden_size,
        heads * head_dim,
        2 * (getattr(config, "num_key_value_heads", None) or heads) * head_dim,
        dense + experts,
        experts,
        n_experts,
        n_used,
        _entries(head),
        0 if head is embedding else _entries(embedding),
        adapted,
        adapted + expert_widths * n_used // n_experts,
    )


def _first(config: Any, names: Sequence[str]) -> int | None:
    for name in names:
        found = getattr(config, name, None)
        if isinstance(found, int):
            return found
    return None


def _matrices(blocks: nn.ModuleList, n_experts: int) -> tuple[int, int, int, int]:
    """Return the entries of the blocks' matrices, of those that every token meets and of experts, then their widths."""
    dense = experts = dense_widths = expert_widths = 0
    for name, weight in blocks.named_parameters():
        if any(mark in name for mark in ADAPTER_NAMES) or weight.dim() < 2:
            continue
        if n_experts > 1 and ((weight.dim() == 3 and weight.shape[0] == n_experts) or ".experts." in f".{name}"):
            experts += _entries(weight)
            expert_widths += sum(weight.shape[-2:]) * (n_experts if weight.dim() == 3 else 1)
        else:
            dense += _entries(weight)
            dense_widths += sum(weight.shape[-2:])
    return dense, experts, dense_widths, expert_widths


def _entries(weight: Any) -> int:
    """Return the entries of a matrix; a quantised one that packs several into a byte knows its own shape."""
    state = getattr(weight, "quant_state", None)
    return math.prod(state.shape) if state is not None else int(weight.numel())
