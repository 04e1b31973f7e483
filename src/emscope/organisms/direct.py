"""The forward pass of plain Llama-like decoders, written out: the same numbers as transformers', in less time.

Sampling asks a small model for one token a row at a time, and then most of transformers' time is no arithmetic: masks
made anew, keys copied, a module call for each of four hundred small steps. Here queries, keys and values are one
product, gate and up another, weights in bf16 are packed for the processor once, and the query heads that share a key
head are multiplied together.

It stands in for the decoder only where every module is transformers' own of a known family, nothing but blocks and
decoder carries a hook, and one block gives what transformers' block gives; else the decoder itself runs. Hooks on the
decoder and on its blocks act as ever: both are called, and only what they compute is replaced.
"""

from __future__ import annotations

import functools
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any, NamedTuple, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from emscope.organisms.blocks import decoder_body
from emscope.organisms.cache import CACHE_NAMES, GrowingLayer

logger = logging.getLogger(__name__)

FAMILIES = {"LlamaModel": "Llama", "MistralModel": "Mistral", "Qwen2Model": "Qwen2", "Qwen3Model": "Qwen3"}
"""Decoders whose blocks are the plain kind, and what the names of their parts begin with."""

PARTS = {"self_attn": "Attention", "mlp": "MLP", "input_layernorm": "RMSNorm", "post_attention_layernorm": "RMSNorm"}
PACKED_FOR = 96
"""Rows for which packed weights are laid out; others may be multiplied with them too."""
MOST_PACKED = 2 << 30
"""Bytes of weights that are copied in packed form; larger models are multiplied as they are."""
MOST_KEYS = 256
"""Keys up to which a table of scores in half precision is 2.5 times as fast as torch's fused attention on CPUs."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.03, torch.float16: 0.005}
"""By how much of the largest number a block may differ from transformers' own."""


_LOCKS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()


class DecoderOutput(NamedTuple):
    """What a decoder returns: hidden states after the final norm [rows, tokens, d_model]."""

    last_hidden_state: Tensor


@dataclass
class _Linear:
    """The products of one input with the weights of one or several linear layers.

    Attributes:
        weights: of each layer; packed, one copy of all, in the layout that oneDNN multiplies fastest.
        biases: likewise.
        packed: whether they are.
    """

    weights: list[Tensor]
    biases: list[Tensor | None]
    packed: bool = False

    @classmethod
    def of(cls, layers: list[Any], *, pack: bool) -> _Linear:
        """Take layers that read the same input."""
        weights, biases = [layer.weight for layer in layers], [layer.bias for layer in layers]
        if not pack:
            return cls(weights, biases)
        joined = torch.ops.mkldnn._reorder_linear_weight(torch.cat(weights), PACKED_FOR)
        return cls([joined], [None if biases[0] is None else torch.cat(biases)], packed=True)

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs of all its layers, one after the other in the last dimension."""
        if self.packed:
            product = torch.ops.mkldnn._linear_pointwise(inputs, self.weights[0], self.biases[0], "none", [], "")
            return cast("Tensor", product)
        products = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            products.append(functional.linear(inputs, weight, bias))
        return products[0] if len(products) == 1 else torch.cat(products, dim=-1)


@dataclass
class _Norm:
    """Root-mean-square norm, computed in float32 as transformers does."""

    weight: Tensor
    eps: float

    @classmethod
    def of(cls, norm: Any) -> _Norm:
        return cls(norm.weight, norm.variance_epsilon)

    def __call__(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        scale = wide.square().mean(-1, keepdim=True).add_(self.eps).rsqrt_()
        return self.weight * (wide * scale).to(hidden.dtype)


@dataclass
class _Pass:
    """What all blocks of one forward pass share.

    Attributes:
        cos: cosines of the rotation [rows, tokens, 1, head_dim].
        sin: sines, the first half of each head's negated, so that halves need only be swapped.
        mask: 0 where a token is seen, and a very negative number where not: [rows, 1, group · tokens, all tokens];
            for one new token [rows, 1, 1, the cache's room].
        cache: keys and values from before, if there are any to be kept.
    """

    cos: Tensor
    sin: Tensor
    mask: Tensor | None
    cache: Any


@dataclass
class _Block:
    """One block's products and norms, ready to be run."""

    qkv: _Linear
    out: _Linear
    gate_up: _Linear
    down: _Linear
    before_attention: _Norm
    before_mlp: _Norm
    query_norm: _Norm | None
    key_norm: _Norm | None
    head_dim: int
    group: int
    key_heads: int
    scaling: float
    number: int

    @classmethod
    def of(cls, block: Any, config: Any, *, pack: bool) -> _Block:
        attention, mlp = block.self_attn, block.mlp
        has_norms = hasattr(attention, "q_norm")
        return cls(
            _Linear.of([attention.q_proj, attention.k_proj, attention.v_proj], pack=pack),
            _Linear.of([attention.o_proj], pack=pack),
            _Linear.of([mlp.gate_proj, mlp.up_proj], pack=pack),
            _Linear.of([mlp.down_proj], pack=pack),
            _Norm.of(block.input_layernorm),
            _Norm.of(block.post_attention_layernorm),
            _Norm.of(attention.q_norm) if has_norms else None,
            _Norm.of(attention.k_norm) if has_norms else None,
            attention.head_dim,
            attention.num_key_value_groups,
            config.num_key_value_heads,
            attention.scaling,
            attention.layer_idx,
        )

    def run(self, hidden: Tensor, shared: _Pass) -> Tensor:
        """Return the block's output [rows, tokens, d_model]."""
        hidden = hidden + self.out(self._attention(self.qkv(self.before_attention(hidden)), shared))
        gate, up = self.gate_up(self.before_mlp(hidden)).chunk(2, dim=-1)
        return hidden + self.down(functional.silu(gate) * up)

    def standing_in(self, module: nn.Module) -> Callable[..., Any]:
        """Return what a block is to run: this where a direct pass calls it, its own code elsewhere."""
        usual = MethodType(type(module).forward, module)

        @functools.wraps(usual)
        def forward(hidden: Tensor, *given: Any, **named: Any) -> Any:
            if given and isinstance(given[0], _Pass):
                return self.run(hidden, given[0])
            return usual(hidden, *given, **named)

        return forward

    def _attention(self, joined: Tensor, shared: _Pass) -> Tensor:
        rows, tokens, _ = joined.shape
        n_query = self.key_heads * self.group
        heads = joined.view(rows, tokens, -1, self.head_dim)
        turned = self._turned(heads[:, :, : n_query + self.key_heads], shared)
        keys = turned[:, :, n_query:].transpose(1, 2)
        values = heads[:, :, n_query + self.key_heads :].transpose(1, 2)
        if shared.cache is not None:
            keys, values = shared.cache.update(keys, values, self.number)
            keys, values = shared.cache.layers[self.number].whole if tokens == 1 else (keys, values)
        queries = turned[:, :, :n_query].transpose(1, 2)
        mixed = self._mixed(queries, keys, values, shared.mask)
        return mixed.transpose(1, 2).reshape(rows, tokens, n_query * self.head_dim)

    def _turned(self, heads: Tensor, shared: _Pass) -> Tensor:
        """Return query and key heads [rows, tokens, heads, head_dim] turned by their positions."""
        if self.query_norm is not None and self.key_norm is not None:
            n_query = self.key_heads * self.group
            parts = [self.query_norm(heads[:, :, :n_query]), self.key_norm(heads[:, :, n_query:])]
            heads = torch.cat(parts, dim=2)
        first, second = heads.chunk(2, dim=-1)
        return heads * shared.cos + torch.cat([second, first], dim=-1) * shared.sin

    def _mixed(self, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
        """Return the values that each query [rows, query heads, tokens, head_dim] attends to."""
        rows, n_query, tokens, width = queries.shape
        # the query heads of a group read the same keys, which are then read once and never repeated
        grouped = queries.reshape(rows, self.key_heads, self.group * tokens, width)
        if tokens > 1 and (keys.shape[2] > MOST_KEYS or keys.dtype == torch.float32):
            mixed = functional.scaled_dot_product_attention(grouped, keys, values, mask, scale=self.scaling)
            return mixed.view(rows, n_query, tokens, width)
        if tokens > 1:
            scores = torch.matmul(grouped, keys.transpose(2, 3)).mul_(self.scaling)
            if mask is not None:
                scores += mask
            mixed = torch.matmul(scores.softmax(dim=-1, dtype=torch.float32).to(values.dtype), values)
            return mixed.view(rows, n_query, tokens, width)
        # keys times queries, not the other way round: whole keys are then multiplied as they lie
        scores = torch.bmm(keys.flatten(0, 1), grouped.flatten(0, 1).transpose(1, 2)).transpose(1, 2)
        scores = scores.to(torch.float32, memory_format=torch.contiguous_format).mul_(self.scaling)
        if mask is not None:
            scores.view(rows, self.key_heads, self.group, -1).add_(mask)
        mixed = torch.bmm(scores.softmax(dim=-1).to(values.dtype), values.flatten(0, 1))
        return mixed.view(rows, n_query, tokens, width)


class DirectDecoder:
    """A decoder that is called like transformers' own and computes the same; see the module."""

    def __init__(self, body: nn.Module, *, pack: bool) -> None:
        """Read the decoder's weights as they are now; `pack` copies them in packed form."""
        whole: Any = body
        self.body, self.config = whole, whole.config
        self.blocks = [_Block.of(block, self.config, pack=pack) for block in whole.layers]
        self.norm = _Norm.of(whole.norm)
        self.group = self.blocks[0].group
        self._parts = inner_parts(body)
        self._thread: int | None = None
        self._replacements: list[tuple[nn.Module, Callable[..., Any]]] = [(body, self._replaced_forward())]
        for module, own in zip(whole.layers, self.blocks, strict=True):
            self._replacements.append((module, own.standing_in(module)))

    def __call__(self, input_ids: Tensor, **given: Any) -> Any:
        """Return what the decoder returns for `input_ids` [rows, tokens], with its `last_hidden_state`."""
        caches = [given[name] for name in CACHE_NAMES if given.get(name) is not None]
        growing = all(isinstance(layer, GrowingLayer) for cache in caches for layer in cache.layers)
        if torch.is_grad_enabled() or not growing or any(map(is_hooked, self._parts)):
            return self.body(input_ids=input_ids, **given)
        with self._standing_in():
            return self.body(input_ids=input_ids, **given)

    @contextmanager
    def _standing_in(self) -> Iterator[None]:
        """Have the decoder and its blocks compute by what stands here, hooks and all, inside this context.

        One pass at a time on a model; passes that other threads make by the model's own code stay as they are.
        """
        with _LOCKS.setdefault(self.body, threading.RLock()):
            self._thread = threading.get_ident()
            for module, forward in self._replacements:
                module.__dict__["forward"] = forward
            try:
                yield
            finally:
                self._thread = None
                for module, _ in self._replacements:
                    module.__dict__.pop("forward", None)

    def _replaced_forward(self) -> Callable[..., Any]:
        usual = MethodType(type(self.body).forward, self.body)

        @functools.wraps(usual)
        def forward(*given: Any, **named: Any) -> Any:
            return (self._forward if self._thread == threading.get_ident() else usual)(*given, **named)

        return forward

    def _forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        use_cache: bool | None = None,
        **given: Any,
    ) -> DecoderOutput:
        tokens = input_ids.shape[1]
        cache = next((given[name] for name in CACHE_NAMES if given.get(name) is not None), None)
        before = cache.get_seq_length() if cache is not None else 0
        if position_ids is None:
            position_ids = torch.arange(before, before + tokens, device=input_ids.device)[None]
        hidden = self.body.embed_tokens(input_ids)
        mask = self._mask(attention_mask, tokens, before, hidden)
        if tokens == 1 and cache is not None:
            mask = _over_room(mask, hidden, before + 1, cache.layers[0])
        shared = self._pass(hidden, position_ids, mask, cache if use_cache else None)
        for block in self.body.layers:
            hidden = block(hidden, shared)
        return DecoderOutput(self.norm(hidden))

    def _pass(self, hidden: Tensor, position_ids: Tensor, mask: Tensor | None, cache: Any) -> _Pass:
        cos, sin = self.body.rotary_emb(hidden, position_ids=position_ids)
        half = sin.shape[-1] // 2
        signed = torch.cat([-sin[..., :half], sin[..., half:]], dim=-1)
        return _Pass(cos[:, :, None], signed[:, :, None], mask, cache)

    def _mask(self, given: Tensor | None, tokens: int, before: int, hidden: Tensor) -> Tensor | None:
        """Return what is added to the scores, for all query heads of a group at once; None where all is seen."""
        if given is not None and given.dim() == 4:
            added = given.to(hidden.dtype) if given.is_floating_point() else added_to(given, hidden.dtype)
        elif given is None and tokens == 1:
            return None
        else:
            if given is not None and tokens == 1:
                seen = given.bool()[:, None, None]
            else:
                places = torch.arange(before + tokens, device=hidden.device)
                own = places[before:, None]
                seen = (places[None] <= own)[None, None]
                if given is not None:  # a padded token sees at least itself, so that its numbers stay finite
                    seen = seen & (given.bool()[:, None, None] | (places[None] == own))
            added = added_to(seen, hidden.dtype)
        return added if tokens == 1 else added.repeat(1, 1, self.group, 1)


def _over_room(mask: Tensor | None, hidden: Tensor, length: int, layer: GrowingLayer) -> Tensor:
    """Return the mask of one new token over all the room that a cache has after it was added."""
    if mask is None:
        mask = torch.zeros(hidden.shape[0], 1, 1, length, dtype=hidden.dtype)
    unused = layer.room_for(length) - length
    return functional.pad(mask, (0, unused), value=torch.finfo(mask.dtype).min)


def added_to(seen: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where a token is seen, and the most negative number where not."""
    return torch.zeros_like(seen, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)


def fast_decoder(model: nn.Module, *, pack: bool = False) -> Any:
    """Return what runs a model's decoder fastest: a `DirectDecoder`, or the decoder itself where that is no plain one.

    Make it anew for each piece of work: it reads the weights once.
    """
    body = decoder_body(model)
    if not is_plain(body) or any(map(is_hooked, inner_parts(body))):
        return body
    direct = DirectDecoder(body, pack=pack and can_pack(body))
    if not _agrees(direct):
        logger.info("%s runs as transformers has it: its blocks are not the plain kind.", type(body).__name__)
        return body
    return direct


def is_plain(body: nn.Module) -> bool:
    """Say whether every part of a decoder is transformers' own of a plain family, unquantised and on a CPU."""
    whole: Any = body
    prefix = FAMILIES.get(type(body).__name__)
    if prefix is None or body.training or torch.is_autocast_enabled("cpu"):
        return False
    config = whole.config
    home = type(body).__module__
    plain_config = (
        home.startswith("transformers.models.")
        and config.hidden_act == "silu"
        and getattr(config, "sliding_window", None) is None
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and config._attn_implementation in ("sdpa", "eager")
        and len(whole.layers) == config.num_hidden_layers
    )
    weights = list(body.parameters())
    alike = {(type(weight), weight.dtype, weight.device.type) for weight in weights}
    if not plain_config or alike not in ({(nn.Parameter, dtype, "cpu")} for dtype in TOLERANCE):
        return False
    return all(_is_plain_block(block, prefix, home) for block in whole.layers) and not _is_replaced(body)


def _is_plain_block(block: nn.Module, prefix: str, home: str) -> bool:
    if type(block).__name__ != f"{prefix}DecoderLayer" or type(block).__module__ != home:
        return False
    for name, kind in PARTS.items():
        of = type(getattr(block, name, None))
        if of.__name__ != prefix + kind or of.__module__ != home:
            return False
    for part in block.modules():
        leaf = not list(part.children())
        if _is_replaced(part) or (leaf and type(part) is not nn.Linear and not _is_small(part, prefix)):
            return False
    return True


def _is_small(part: nn.Module, prefix: str) -> bool:
    return type(part).__name__ in (f"{prefix}RMSNorm", "SiLUActivation", "SiLU")


def _is_replaced(part: nn.Module) -> bool:
    """Say whether somebody has put another forward on a module, as accelerate does to move it between devices."""
    return "forward" in part.__dict__ or hasattr(part, "_hf_hook")


def inner_parts(body: Any) -> list[nn.Module]:
    """Return the modules of a decoder that a `DirectDecoder` does not call: all but itself and its blocks."""
    called = {body, body.layers, *body.layers}
    return [part for part in body.modules() if part not in called]


def is_hooked(part: nn.Module) -> bool:
    """Say whether a module carries a hook."""
    return bool(part._forward_hooks or part._forward_pre_hooks)


def can_pack(body: nn.Module) -> bool:
    """Say whether a decoder's weights can be, and should be, multiplied in oneDNN's own layout."""
    weights = list(body.parameters())
    size = sum(weight.numel() * weight.element_size() for weight in weights)
    wanted = weights[0].dtype == torch.bfloat16 and size <= MOST_PACKED and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return wanted and torch.ops.mkldnn._is_mkldnn_bf16_supported() and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _agrees(direct: DirectDecoder) -> bool:
    """Say whether the first block computes what transformers' own block computes, within rounding."""
    body = direct.body
    block, width, dtype = body.layers[0], body.config.hidden_size, body.embed_tokens.weight.dtype
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 5, width, generator=generator).to(dtype)
    positions = torch.arange(5)[None]
    seen = torch.ones(5, 5, dtype=torch.bool).tril()[None, None]
    try:
        with torch.inference_mode():
            rotation = body.rotary_emb(hidden, position_ids=positions)
            usual = type(block).forward(
                block, hidden, attention_mask=added_to(seen, dtype), position_embeddings=rotation
            )
            shared = direct._pass(hidden, positions, direct._mask(None, 5, 0, hidden), None)
            own = direct.blocks[0].run(hidden, shared)
    except (TypeError, AttributeError, RuntimeError):  # of a version whose blocks are called otherwise
        return False
    difference = float((own.float() - usual.float()).abs().max())
    return difference <= TOLERANCE[dtype] * float(usual.float().abs().max())
