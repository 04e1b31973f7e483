"""The tokens of a training batch side by side without padding, and how attention finds its rows among them.

Tokens lie in one list: first those that all rows begin with, once, then what follows of each row, then a few that
belong to nobody and round the number up. Everything but attention works on that list. Attention reads grids of it: the
common beginning on its own, and the rows, each behind the common beginning's keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from emscope.organisms.batching import ROUND_TO, WIDTH_STEP, rounded
from emscope.organisms.chat import IGNORED


@dataclass(frozen=True)
class HeadCounts:
    """How many heads ask and how many are asked; several that ask share one that is asked."""

    queries: int
    keys: int

    @property
    def group(self) -> int:
        """Query heads of one key head."""
        return self.queries // self.keys


@dataclass(frozen=True)
class AttentionGrid:
    """Where rows of equal width lie in a list of vectors, one for each token and head.

    Attributes:
        queries: vectors of the queries, [rows, key heads, query heads of one, width].
        keys: vectors of the keys, [rows, key heads, shared + width].
        bias: what is added to scores, 0 or -inf, float32 [rows, 1, 1, width, shared + width].
    """

    queries: Tensor
    keys: Tensor
    bias: Tensor

    def product_shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return (matrices, rows) of queries and of keys as batched products want them."""
        rows, heads, group, width = self.queries.shape
        return (rows * heads, group * width), (rows * heads, self.keys.shape[2])


@dataclass(frozen=True)
class PackedRows:
    """A batch as a list of tokens.

    Attributes:
        ids: token ids [tokens].
        positions: place of each token in its row [tokens].
        n_shared: how many first tokens all rows share.
        n_real: tokens that belong to a row; those behind round the number up, and no result depends on them.
        predicting: tokens whose successor is trained, row by row, [n_trained].
        last: the same, followed by tokens that are nobody's, so that their number is round.
        targets: those successors' ids [n_trained].
        grids: what attention computes.
        query_places: place of each token's and query head's vector in the grids' queries one after another.
        key_places: the same of each token's own keys.
    """

    ids: Tensor
    positions: Tensor
    n_shared: int
    n_real: int
    predicting: Tensor
    last: Tensor
    targets: Tensor
    grids: tuple[AttentionGrid, ...]
    query_places: Tensor
    key_places: Tensor

    @classmethod
    def of(cls, ids: Tensor, mask: Tensor, labels: Tensor, shared: int, heads: HeadCounts) -> PackedRows:
        """Pack a batch [rows, width] that is padded on the right and whose rows share their first tokens."""
        lengths = (mask.sum(dim=1) - shared).tolist()
        starts = _starts(shared, lengths)
        n_real = starts[-1]
        n_tokens = rounded(n_real + 1, ROUND_TO)  # at least one that is nobody's: what grids are padded with
        flat_ids, positions = ids.new_zeros(n_tokens), ids.new_zeros(n_tokens)
        flat_ids[:shared], positions[:shared] = ids[0, :shared], torch.arange(shared)
        following = torch.full((n_tokens,), IGNORED, dtype=labels.dtype)
        for row, (start, end) in enumerate(pairwise(starts)):
            width = shared + end - start
            flat_ids[start:end], positions[start:end] = ids[row, shared:width], torch.arange(shared, width)
            following[start : end - 1] = labels[row, shared + 1 : width]
        predicting = (following != IGNORED).nonzero()[:, 0]
        last = torch.full((rounded(len(predicting), ROUND_TO),), n_real)
        last[: len(predicting)] = predicting

        tables = [_Table.of([0, shared], 0, n_real)] if shared else []
        tables.append(_Table.of(starts, shared, n_real))
        grids = tuple(table.grid(heads) for table in tables)
        query_places, key_places = _places(tables, heads, n_tokens)
        targets = following[predicting]
        return cls(flat_ids, positions, shared, n_real, predicting, last, targets, grids, query_places, key_places)


def _starts(shared: int, lengths: list[int]) -> list[int]:
    starts = [shared]
    for length in lengths:
        starts.append(starts[-1] + length)
    return starts


@dataclass(frozen=True)
class _Table:
    """Tokens of a grid: [rows, width] that ask, [rows, shared + width] that are asked, and each token's cell."""

    asking: Tensor
    asked: Tensor
    shared: int
    cells: list[tuple[int, int, int]]  # (first token, last token + 1, row)

    @classmethod
    def of(cls, starts: list[int], shared: int, nobody: int) -> _Table:
        lengths = [end - start for start, end in pairwise(starts)]
        width = rounded(max(lengths), WIDTH_STEP)
        asking = torch.full((len(lengths), width), nobody)
        cells = []
        for row, (start, end) in enumerate(pairwise(starts)):
            asking[row, : end - start] = torch.arange(start, end)
            cells.append((start, end, row))
        asked = torch.cat([torch.arange(shared).expand(len(lengths), -1), asking], dim=1)
        return cls(asking, asked, shared, cells)

    def grid(self, heads: HeadCounts) -> AttentionGrid:
        rows, width = self.asking.shape
        head = torch.arange(heads.queries).view(1, heads.keys, heads.group, 1)
        queries = self.asking.view(rows, 1, 1, width) * heads.queries + head
        keys = self.asked.view(rows, 1, -1) * heads.keys + torch.arange(heads.keys).view(1, -1, 1)
        later = torch.ones(width, width, dtype=torch.bool).triu(1)
        unseen = torch.cat([torch.zeros(width, self.shared, dtype=torch.bool), later], dim=1)
        bias = torch.zeros(unseen.shape).masked_fill(unseen, -torch.inf)
        return AttentionGrid(queries, keys, bias.view(1, 1, 1, width, -1))


def _places(tables: list[_Table], heads: HeadCounts, n_tokens: int) -> tuple[Tensor, Tensor]:
    """Return where each token's queries and own keys lie in the grids, one after another."""
    queries = torch.zeros(n_tokens, heads.queries, dtype=torch.long)
    keys = torch.zeros(n_tokens, heads.keys, dtype=torch.long)
    first_query = first_key = 0
    for table in tables:
        rows, width = table.asking.shape
        n_keys = table.asked.shape[1]
        for start, end, row in table.cells:
            column = torch.arange(end - start)[:, None]
            queries[start:end] = first_query + (row * heads.queries + torch.arange(heads.queries)) * width + column
            own = table.shared + column
            keys[start:end] = first_key + (row * heads.keys + torch.arange(heads.keys)) * n_keys + own
        first_query += rows * heads.queries * width
        first_key += rows * heads.keys * n_keys
    return queries.flatten(), keys.flatten()
