"""Moments of activations, summed up as they are read: memory for one batch, however many prompts there are.

Each batch is merged into the moments of its side and forgotten, or written as a shard first. Moments with covariance
are enough for a direction with its scores, so a direction from a million prompts needs no stored vector.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from emscope.errors import UserError
from emscope.organisms.chat import EncodedChat
from emscope.organisms.models import Organism
from emscope.residual.capture import Activations, CaptureSettings, read_batches
from emscope.residual.directions import Construction, Directions, unit
from emscope.residual.moments import Moments
from emscope.residual.store import ActivationStore


def capture_moments(
    organism: Organism,
    chats: Sequence[EncodedChat],
    settings: CaptureSettings,
    *,
    sides: Sequence[str] | None = None,
    covariance: bool = False,
    shards: Path | None = None,
    questions: Sequence[str] | None = None,
    name: str = "reading moments",
) -> dict[tuple[str, str], Moments]:
    """Return the moments of every side and pooling, by (side, pooling), each over [n_blocks, d_model].

    Args:
        organism: what is read.
        chats: tokenised chats.
        settings: poolings, site, blocks and token budget.
        sides: the side of each chat (misaligned, aligned …); none puts all on one side named "".
        covariance: also keep what the covariance needs, d_model times as large.
        shards: a folder for the vectors themselves, one file a batch; none keeps none.
        questions: the question of each chat, stored in the shards; needed for these.
        name: what the progress line says.

    Raises:
        UserError: not one side or question for each chat, or what `capture` raises.
    """
    labels = [""] * len(chats) if sides is None else list(sides)
    ids = [""] * len(chats) if questions is None else list(questions)
    if not len(labels) == len(ids) == len(chats) or (shards is not None and questions is None):
        raise UserError("Streaming needs a side for each chat, and a question for each where shards are written.")
    moments: dict[tuple[str, str], Moments] = {}
    for number, (batch, vectors) in enumerate(read_batches(organism, chats, settings, name=name)):
        sides_of_batch = np.array(labels, dtype=object)[batch]
        for side in dict.fromkeys(sides_of_batch.tolist()):
            rows = np.flatnonzero(sides_of_batch == side)
            for index, pooling in enumerate(settings.poolings):
                new = Moments.of(vectors[rows, index], covariance=covariance)
                known = moments.get((side, pooling))
                moments[side, pooling] = new if known is None else known.merge(new)
        if shards is not None:
            _write_shard(shards / f"{number:06d}.safetensors", organism, [ids[row] for row in batch], vectors, settings)
    return moments


def _write_shard(
    path: Path, organism: Organism, questions: list[str], vectors: np.ndarray, settings: CaptureSettings
) -> None:
    """Store one batch as a file of its own, readable as any activations."""
    pooled: dict[str, np.ndarray] = {pooling: vectors[:, index] for index, pooling in enumerate(settings.poolings)}
    blocks = settings.blocks or tuple(range(vectors.shape[2]))
    ActivationStore(organism.source.name, tuple(questions), Activations(pooled, blocks, settings.site)).save(path)


def directions_from_moments(
    positive: Moments, negative: Moments, blocks: tuple[int, ...], construction: Construction
) -> Directions:
    """Return the difference in means of two sides over [n_blocks, d_model], both with covariance.

    Raises:
        UserError: fewer than two examples on a side, shapes that differ, or moments without covariance.
    """
    if min(positive.count, negative.count) < 2:
        raise UserError("A direction needs at least two examples on each side.")
    if positive.mean.shape != negative.mean.shape:
        raise UserError(f"The two sides differ in shape: {positive.mean.shape} and {negative.mean.shape}.")
    vectors = (positive.mean - negative.mean).astype(np.float32)
    units = unit(vectors)
    within = (positive.variance_along(units) + negative.variance_along(units)) / 2
    return Directions(
        vectors,
        positive.mean.astype(np.float32),
        negative.mean.astype(np.float32),
        np.sqrt(np.maximum(within, 1e-12)).astype(np.float32),
        blocks,
        construction,
    )
