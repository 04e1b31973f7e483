"""The decoder blocks of the Llama kind with LoRA updates, forward and backward by hand, over packed rows.

What autograd over the model's own modules spends beside the products of the frozen weights is most of a training step
on a CPU: updates in float32 beside bf16 weights, a slow backward of attention, padding, copies and casts. Here a block
is a few products and in-place passes:

- the updates are multiplied in the weights' dtype; the parameters themselves and their optimiser stay float32;
- no token is padding: only attention lays rows out as a grid (`packed_rows`);
- scores and softmax are float32, whatever the dtype; the residual gradient is too;
- what needs no gradient has none: the frozen weights, and everything below the first update.

The formulas are the model's own, so that loss and gradients agree to rounding. `packed_model` says which models are of
this kind; every other takes the plain path.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from emscope.organisms.packed_rows import AttentionGrid, HeadCounts, PackedRows

WIDEST = 1024
"""Tokens of a row up to which whole tables of scores are held."""


@dataclass(frozen=True)
class UpdatedLinear:
    """A frozen linear layer and its LoRA update: y = x·Wᵀ + bias + scale·(x·Aᵀ)·Bᵀ.

    `first` is the number of A among the model's trained parameters, B's is the next; None without an update.
    """

    weight: Tensor
    bias: Tensor | None
    scale: float = 1.0
    first: int | None = None


@dataclass(frozen=True)
class Updates:
    """The updates of layers that read the same input, in the dtype of the products.

    Attributes:
        low: A of all of them, one below the other, [ranks, d_in].
        high: scale·B of each, [d_out, rank]; None without an update.
        where: the rows of `low` of each.
    """

    low: Tensor | None
    high: list[Tensor | None]
    where: list[slice]


class SameInput:
    """Linear layers that read the same input: their updates' first products are one."""

    def __init__(self, *layers: UpdatedLinear) -> None:
        self.layers = layers

    @property
    def is_updated(self) -> bool:
        """Whether any of them has an update."""
        return any(layer.first is not None for layer in self.layers)

    def updates(self, trained: Sequence[Tensor]) -> Updates:
        """Return the updates as the trained parameters have them now."""
        lows: list[Tensor] = []
        high: list[Tensor | None] = []
        where, rank = [], 0
        for layer in self.layers:
            begin = rank
            if layer.first is None:
                high.append(None)
            else:
                lows.append(trained[layer.first])
                high.append((trained[layer.first + 1] * layer.scale).to(layer.weight.dtype))
                rank += lows[-1].shape[0]
            where.append(slice(begin, rank))
        low = torch.cat(lows).to(self.layers[0].weight.dtype) if lows else None
        return Updates(low, high, where)

    def forward(self, inputs: Tensor, updates: Updates) -> tuple[list[Tensor], Tensor | None]:
        """Return each layer's output [tokens, d_out], and the inputs' products with A [tokens, ranks]."""
        inner = None if updates.low is None else inputs @ updates.low.T
        outputs = []
        for layer, high, where in zip(self.layers, updates.high, updates.where, strict=True):
            output = functional.linear(inputs, layer.weight, layer.bias)
            if high is not None and inner is not None:
                output.addmm_(inner[:, where], high.T)
            outputs.append(output)
        return outputs, inner

    def backward(
        self,
        gradients: Sequence[Tensor],
        inputs: Tensor,
        inner: Tensor | None,
        updates: Updates,
        found: list[Tensor | None],
        *,
        to_inputs: bool = True,
    ) -> Tensor | None:
        """Put the gradients of A and B into `found`, and return that of the inputs, if it is wanted."""
        before = self._of_updates(gradients, inputs, inner, updates, found)
        if not to_inputs:
            return None
        result = gradients[0] @ self.layers[0].weight
        for layer, gradient in zip(self.layers[1:], gradients[1:], strict=True):
            result.addmm_(gradient, layer.weight)
        if before is not None and updates.low is not None:
            result.addmm_(before, updates.low)
        return result

    def _of_updates(
        self,
        gradients: Sequence[Tensor],
        inputs: Tensor,
        inner: Tensor | None,
        updates: Updates,
        found: list[Tensor | None],
    ) -> Tensor | None:
        """Return the gradient of the inputs' products with A, [tokens, ranks]."""
        if inner is None:
            return None
        before = torch.empty_like(inner)
        for layer, gradient, high, where in zip(self.layers, gradients, updates.high, updates.where, strict=True):
            if layer.first is not None and high is not None:
                before[:, where] = gradient @ high
                found[layer.first + 1] = (gradient.T @ inner[:, where]).float() * layer.scale
        of_low = (before.T @ inputs).float()
        for layer, where in zip(self.layers, updates.where, strict=True):
            if layer.first is not None:
                found[layer.first] = of_low[where]
        return before


@dataclass(frozen=True)
class FrozenNorm:
    """A root-mean-square norm whose weight, float32, is not trained."""

    weight: Tensor
    epsilon: float

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the normed inputs [..., d], and what each vector was multiplied by, float32 [..., 1]."""
        wide = inputs.float()
        factor = torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + self.epsilon)
        return (wide * factor).mul_(self.weight).to(inputs.dtype), factor

    def backward(self, gradient: Tensor, inputs: Tensor, factor: Tensor) -> Tensor:
        """Return the gradient of the inputs, float32."""
        normed = inputs.float() * factor
        wide = gradient.float() * self.weight
        along = (wide * normed).mean(dim=-1, keepdim=True)
        return torch.addcmul(wide, normed, along, value=-1).mul_(factor)


@dataclass(frozen=True)
class Turn:
    """The rotary embedding of a list of tokens: cosines and sines, float32 [tokens, 1, d_head / 2]."""

    cosine: Tensor
    sine: Tensor

    def forward(self, vectors: Tensor) -> Tensor:
        """Return vectors [tokens, heads, d_head] turned, float32."""
        return self._turned(vectors, -1)

    def backward(self, gradient: Tensor) -> Tensor:
        """Return the gradient of the vectors, float32."""
        return self._turned(gradient, 1)

    def scaled(self, factor: float) -> Turn:
        """Return the turn that also multiplies."""
        return Turn(self.cosine * factor, self.sine * factor)

    def _turned(self, vectors: Tensor, sign: int) -> Tensor:
        first, second = vectors.float().chunk(2, dim=-1)
        turned = torch.empty(vectors.shape, dtype=torch.float32)
        one, two = turned.chunk(2, dim=-1)
        torch.mul(first, self.cosine, out=one)
        one.addcmul_(second, self.sine, value=sign)
        torch.mul(second, self.cosine, out=two)
        two.addcmul_(first, self.sine, value=-sign)
        return turned


@dataclass(frozen=True)
class SavedAttention:
    """What attention over one grid keeps: queries, keys, values and probabilities of its batched products."""

    queries: Tensor
    keys: Tensor
    values: Tensor
    shares: Tensor


def attend(
    rows: PackedRows, heads: HeadCounts, queries: Tensor, keys: Tensor, values: Tensor
) -> tuple[Tensor, list[SavedAttention]]:
    """Return attention's output [tokens, query heads · d_head], and what the backward pass needs.

    Queries (scaled already) and keys are float32 [tokens, heads, d_head], values of the products' dtype.
    """
    dtype, size = values.dtype, values.shape[-1]
    outputs, saved = [], []
    for grid in rows.grids:
        asking, asked = grid.product_shapes()
        of_queries = _gather(queries, grid.queries).view(*asking, size)
        of_keys = _gather(keys, grid.keys).view(*asked, size)
        of_values = _gather(values, grid.keys).view(*asked, size)
        scores = torch.bmm(of_queries, of_keys.transpose(1, 2))
        scores.view(*grid.queries.shape, -1).add_(grid.bias)
        shares = torch.softmax(scores, dim=-1).to(dtype)
        outputs.append(torch.bmm(shares, of_values).view(-1, size))
        saved.append(SavedAttention(of_queries.to(dtype), of_keys.to(dtype), of_values, shares))
    placed = _placed(outputs, rows.query_places, rows.n_real * heads.queries)
    return placed.view(-1, heads.queries * size), saved


def attend_backward(
    rows: PackedRows, heads: HeadCounts, gradient: Tensor, saved: Sequence[SavedAttention]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of queries, keys and values, [tokens, heads, d_head]."""
    size = saved[0].values.shape[-1]
    of_queries: list[Tensor] = []
    of_keys: list[Tensor] = []
    of_values: list[Tensor] = []
    for grid, kept in zip(rows.grids, saved, strict=True):
        upstream = _gather(gradient.view(-1, heads.queries, size), grid.queries).view(kept.queries.shape)
        of_values.append(torch.bmm(kept.shares.transpose(1, 2), upstream))
        of_shares = torch.bmm(upstream, kept.values.transpose(1, 2))
        of_scores = torch.ops.aten._softmax_backward_data(of_shares, kept.shares, -1, of_shares.dtype)
        of_queries.append(torch.bmm(of_scores, kept.keys).view(-1, size))
        of_keys.append(torch.bmm(of_scores.transpose(1, 2), kept.queries))
    asking = _placed(of_queries, rows.query_places, rows.n_real * heads.queries).view(-1, heads.queries, size)
    return asking, _of_asked(rows, heads, of_keys), _of_asked(rows, heads, of_values)


def _of_asked(rows: PackedRows, heads: HeadCounts, gradients: Sequence[Tensor]) -> Tensor:
    """Return the gradient of each token's own keys or values, those of the shared tokens summed over all rows."""
    size = gradients[0].shape[-1]
    flat = [gradient.view(-1, size) for gradient in gradients]
    own = _placed(flat, rows.key_places, rows.n_real * heads.keys).view(-1, heads.keys, size)
    if rows.n_shared:
        grid: AttentionGrid = rows.grids[-1]
        table = gradients[-1].view(*grid.keys.shape, size)
        shared = table[:, :, : rows.n_shared].sum(dim=0, dtype=torch.float32)
        own[: rows.n_shared] += shared.transpose(0, 1).to(own.dtype)
    return own


def _gather(vectors: Tensor, places: Tensor) -> Tensor:
    return vectors.reshape(-1, vectors.shape[-1]).index_select(0, places.flatten())


def _placed(grids: Sequence[Tensor], places: Tensor, n_real: int) -> Tensor:
    """Return each token's vectors from those of the grids; zeros for the tokens that are nobody's."""
    whole = grids[0] if len(grids) == 1 else torch.cat(list(grids))
    vectors = whole.index_select(0, places)
    vectors[n_real:] = 0
    return vectors


def _spread(gradient: Tensor, only: Tensor | None, n_tokens: int) -> Tensor:
    """Return the gradient of all tokens from that of the numbered ones, which alone have one."""
    if only is None:
        return gradient
    return gradient.new_zeros(n_tokens, gradient.shape[1]).index_copy_(0, only, gradient)


@dataclass
class SavedBlock:
    """What a block's backward pass needs of its forward pass, each [tokens, …]."""

    inputs: Tensor
    input_factor: Tensor
    normed: Tensor
    inner_qkv: Tensor | None
    raw: tuple[Tensor, Tensor]  # queries and keys before their own norms, where they have some
    raw_factors: tuple[Tensor | None, Tensor | None]
    attention: list[SavedAttention]
    attended: Tensor
    inner_out: Tensor | None
    middle: Tensor
    middle_factor: Tensor
    middle_normed: Tensor
    inner_up: Tensor | None
    gate: Tensor
    up: Tensor
    bent: Tensor
    product: Tensor
    inner_down: Tensor | None
    updates: tuple[Updates, Updates, Updates, Updates]
    only: Tensor | None


@dataclass(frozen=True)
class PackedBlock:
    """One decoder block: attention and a gated MLP, each behind a norm."""

    before_attention: FrozenNorm
    qkv: SameInput
    head_norms: tuple[FrozenNorm, FrozenNorm] | None
    out: SameInput
    before_mlp: FrozenNorm
    gate_up: SameInput
    down: SameInput
    heads: HeadCounts
    scaling: float

    @property
    def parts(self) -> tuple[SameInput, SameInput, SameInput, SameInput]:
        """The linear layers, by input."""
        return self.qkv, self.out, self.gate_up, self.down

    def forward(
        self, inputs: Tensor, rows: PackedRows, turn: Turn, trained: Sequence[Tensor], only: Tensor | None = None
    ) -> tuple[Tensor, SavedBlock]:
        """Return the residual stream after the block [tokens, d_model], and what the backward pass needs.

        With `only`, numbers of tokens, it is that of those tokens: of the others keys and values are all that is used.
        """
        in_qkv, in_out, in_up, in_down = (part.updates(trained) for part in self.parts)
        normed, input_factor = self.before_attention.forward(inputs)
        (queries, keys, values), inner_qkv = self.qkv.forward(normed, in_qkv)
        queries = queries.view(len(inputs), self.heads.queries, -1)
        keys = keys.view(len(inputs), self.heads.keys, -1)
        raw = (queries, keys)
        factors: tuple[Tensor | None, Tensor | None] = (None, None)
        if self.head_norms is not None:
            queries, query_factor = self.head_norms[0].forward(queries)
            keys, key_factor = self.head_norms[1].forward(keys)
            factors = (query_factor, key_factor)
        turned = turn.scaled(self.scaling).forward(queries), turn.forward(keys)
        attended, attention = attend(rows, self.heads, *turned, values.view(keys.shape))
        attended = attended if only is None else attended[only]
        (mixed,), inner_out = self.out.forward(attended, in_out)

        middle = (inputs if only is None else inputs[only]) + mixed
        middle_normed, middle_factor = self.before_mlp.forward(middle)
        (gate, up), inner_up = self.gate_up.forward(middle_normed, in_up)
        bent = functional.silu(gate)
        product = bent * up
        (added,), inner_down = self.down.forward(product, in_down)
        saved = SavedBlock(
            inputs,
            input_factor,
            normed,
            inner_qkv,
            raw,
            factors,
            attention,
            attended,
            inner_out,
            middle,
            middle_factor,
            middle_normed,
            inner_up,
            gate,
            up,
            bent,
            product,
            inner_down,
            (in_qkv, in_out, in_up, in_down),
            only,
        )
        return middle + added, saved

    def backward(
        self,
        gradient: Tensor,
        saved: SavedBlock,
        rows: PackedRows,
        turn: Turn,
        found: list[Tensor | None],
        *,
        to_inputs: bool,
    ) -> Tensor | None:
        """Return the gradient of the block's inputs, if it is wanted; both gradients are float32 [tokens, d_model]."""
        gradient = gradient + self._mlp_backward(gradient, saved, found)
        queries, keys, values = self._attention_backward(gradient, saved, rows, turn, found)
        gradient = _spread(gradient, saved.only, len(saved.inputs))
        before = self.qkv.backward(
            [queries, keys, values], saved.normed, saved.inner_qkv, saved.updates[0], found, to_inputs=to_inputs
        )
        if before is None:
            return None
        return gradient.add_(self.before_attention.backward(before, saved.inputs, saved.input_factor))

    def _mlp_backward(self, gradient: Tensor, saved: SavedBlock, found: list[Tensor | None]) -> Tensor:
        _, _, in_up, in_down = saved.updates
        low = gradient.to(saved.gate.dtype)
        of_product = self.down.backward([low], saved.product, saved.inner_down, in_down, found)
        assert of_product is not None
        of_up = of_product * saved.bent
        of_gate = torch.ops.aten.silu_backward(of_product.mul_(saved.up), saved.gate)
        before = self.gate_up.backward([of_gate, of_up], saved.middle_normed, saved.inner_up, in_up, found)
        assert before is not None
        return self.before_mlp.backward(before, saved.middle, saved.middle_factor)

    def _attention_backward(
        self, gradient: Tensor, saved: SavedBlock, rows: PackedRows, turn: Turn, found: list[Tensor | None]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the gradients of the outputs of the three projections, [tokens, d_out]."""
        dtype, n_tokens = saved.normed.dtype, len(saved.inputs)
        attended = self.out.backward([gradient.to(dtype)], saved.attended, saved.inner_out, saved.updates[1], found)
        assert attended is not None
        attended = _spread(attended, saved.only, n_tokens)
        queries, keys, values = attend_backward(rows, self.heads, attended, saved.attention)
        queries, keys = turn.scaled(self.scaling).backward(queries), turn.backward(keys)
        if self.head_norms is not None:
            (query_norm, key_norm), (query_factor, key_factor) = self.head_norms, saved.raw_factors
            assert query_factor is not None
            assert key_factor is not None
            queries = query_norm.backward(queries, saved.raw[0], query_factor)
            keys = key_norm.backward(keys, saved.raw[1], key_factor)
        return queries.to(dtype).view(n_tokens, -1), keys.to(dtype).view(n_tokens, -1), values.view(n_tokens, -1)


class PackedBlocks:
    """A model's blocks as this module runs them, and the parameters that are trained."""

    def __init__(self, body: Any, blocks: list[PackedBlock], trained: list[nn.Parameter]) -> None:
        self.body, self.blocks, self.trained = body, blocks, trained
        updated = [any(part.is_updated for part in block.parts) for block in blocks]
        self.first = updated.index(True)

    @property
    def heads(self) -> HeadCounts:
        """How many heads each block has."""
        return self.blocks[0].heads

    def hidden_of_predicting(self, rows: PackedRows) -> Tensor:
        """Return the final hidden states [n_trained, d_model] of the tokens whose successor is trained."""
        inputs = self.body.embed_tokens(rows.ids)
        cosine, sine = self.body.rotary_emb(inputs, position_ids=rows.positions[None])
        half = cosine.shape[-1] // 2
        turn = Turn(cosine[0, :, None, :half].float(), sine[0, :, None, :half].float())
        hidden = _Run.apply(self, rows, turn, inputs, *self.trained)  # type: ignore[no-untyped-call]
        return self.body.norm(hidden[: len(rows.targets)])  # type: ignore[no-any-return]


class _Run(torch.autograd.Function):
    """All blocks, one after another."""

    @staticmethod
    def forward(ctx: Any, packed: PackedBlocks, rows: PackedRows, turn: Turn, hidden: Tensor, *trained: Tensor) -> Any:
        """Return the residual stream after the last block, of the tokens `rows.last`."""
        kept: list[SavedBlock] = []
        for number, block in enumerate(packed.blocks):
            only = rows.last if number == len(packed.blocks) - 1 else None
            hidden, saved = block.forward(hidden, rows, turn, trained, only)
            if number >= packed.first and any(ctx.needs_input_grad):
                kept.append(saved)
        ctx.packed, ctx.rows, ctx.turn, ctx.kept = packed, rows, turn, kept
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:  # type: ignore[override]
        """Return the gradients of the trained parameters."""
        packed: PackedBlocks = ctx.packed
        found: list[Tensor | None] = [None] * len(packed.trained)
        upstream: Tensor | None = gradient.float()
        for number in range(len(packed.blocks) - 1, packed.first - 1, -1):
            assert upstream is not None
            block, saved = packed.blocks[number], ctx.kept.pop()
            to_inputs = number > packed.first
            upstream = block.backward(upstream, saved, ctx.rows, ctx.turn, found, to_inputs=to_inputs)
        return None, None, None, None, *found
