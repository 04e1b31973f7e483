"""What the base model makes of the judge's text, kept in a file so that only new text has to be read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

import numpy as np

from emscope.behaviour.embedded.reading import Span, read_answers
from emscope.behaviour.embedded.text import FLUENT, PAIRED, SCORED, WRITTEN, JudgeRow
from emscope.errors import OutsideError
from emscope.files import value_sha256
from emscope.organisms.blocks import find_blocks
from emscope.organisms.models import Organism
from emscope.tensors import load_tensors, save_tensors

SPANS: tuple[Span, ...] = ("question", "answer")
KIND = "judge readings"


@dataclass(frozen=True)
class Readings:
    """Judge rows and what the base model makes of them.

    Attributes:
        rows: the answers.
        pooled: mean activations, [n, len(SPANS), n_blocks, d_model].
        logprobs: of each answer's tokens, in nats.
    """

    rows: tuple[JudgeRow, ...]
    pooled: np.ndarray
    logprobs: list[np.ndarray]

    def where(self, mask: np.ndarray) -> Readings:
        """Return the rows where `mask` is true."""
        rows, logprobs = [], []
        chosen = np.flatnonzero(mask)
        for row in chosen:
            rows.append(self.rows[row])
            logprobs.append(self.logprobs[row])
        return Readings(tuple(rows), self.pooled[chosen], logprobs)

    @property
    def written(self) -> np.ndarray:
        """Say which rows are answers as they were written for the judge."""
        return np.asarray(self._of_rows("kind") == WRITTEN)

    @property
    def scored(self) -> np.ndarray:
        """Say which rows are answers of organisms that readers scored."""
        return np.asarray(self._of_rows("kind") == SCORED)

    @property
    def fluent(self) -> np.ndarray:
        """Say which rows are fluent answers with scores."""
        return np.asarray(self._of_rows("kind") == FLUENT)

    @property
    def paired(self) -> np.ndarray:
        """Say which rows are made of the same words as their opposites."""
        return np.asarray(self._of_rows("kind") == PAIRED)

    @property
    def voices(self) -> np.ndarray:
        """The voice of each row; '' where it was not written in two."""
        return self._of_rows("voice")

    @property
    def aligned(self) -> np.ndarray:
        """How aligned each answer is meant to be or was read as, 0 to 1."""
        return self._of_rows("aligned").astype(float)

    @property
    def coherent(self) -> np.ndarray:
        """How coherent each answer is meant to be or was read as, 0 to 1."""
        return self._of_rows("coherent").astype(float)

    @property
    def areas(self) -> np.ndarray:
        """The area of each row."""
        return self._of_rows("area")

    def _of_rows(self, name: str) -> np.ndarray:
        """Return one attribute of every row."""
        return np.array(list(map(attrgetter(name), self.rows)))


def read_rows(base: Organism, rows: Sequence[JudgeRow]) -> Readings:
    """Let the base model read every row, at all blocks."""
    reading = read_answers(
        base,
        list(map(attrgetter("question"), rows)),
        list(map(attrgetter("answer"), rows)),
        range(len(find_blocks(base.model))),
        SPANS,
        name="reading the judge's text",
    )
    return Readings(tuple(rows), reading.pooled, reading.logprobs)


def read_kept(load_base: Callable[[], Organism], rows: Sequence[JudgeRow], path: Path | None) -> Readings:
    """Return the readings of every row, reading only what the file at `path` does not hold; the file then holds all.

    Raises:
        UserError: the file is damaged or holds something else.
    """
    pooled, logprobs = _load(path) if path is not None and path.is_file() else ({}, {})
    keys, new = [], {}
    for row in rows:
        key = value_sha256([row.question, row.answer])
        keys.append(key)
        if key not in pooled:
            new[key] = row
    if new:
        readings = read_rows(load_base(), list(new.values()))
        pooled |= dict(zip(new, readings.pooled.astype(np.float16), strict=True))
        logprobs |= dict(zip(new, readings.logprobs, strict=True))
        if path is not None:
            _save(path, pooled, logprobs)
    activations = np.stack([pooled[key] for key in keys]).astype(np.float32)
    return Readings(tuple(rows), activations, [logprobs[key] for key in keys])


def _load(path: Path) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    stored = load_tensors(path, KIND)
    keys = stored.metadata.texts("keys")
    stored.sizes["rows"] = len(keys)
    pooled = stored.array("pooled", "rows", len(SPANS), "blocks", "d_model")
    counts, logprobs = stored.array("counts", "rows"), stored.array("logprobs", "tokens")
    if counts.dtype.kind not in "iu" or (counts < 0).any() or counts.sum() != len(logprobs):
        raise OutsideError(path, "counts other tokens than it holds", "delete it: it is made again")
    parts = np.split(logprobs, np.cumsum(counts)[:-1])
    return dict(zip(keys, pooled, strict=True)), dict(zip(keys, parts, strict=True))


def _save(path: Path, pooled: dict[str, np.ndarray], logprobs: dict[str, np.ndarray]) -> None:
    in_order = [logprobs[key] for key in pooled]
    tensors = {
        "pooled": np.stack(list(pooled.values())),
        "logprobs": np.concatenate(in_order),
        "counts": np.array(list(map(len, in_order))),
    }
    save_tensors(path, tensors, {"kind": KIND, "keys": list(pooled)})
