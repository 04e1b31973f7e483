"""A table of answers that a stronger judge has scored, as calibration needs it: who was asked what, and what counts.

Questions whose texts are nearly the same, in another wording or with another ending, must not stand on both sides of a
fold: they are one group.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from emscope.behaviour.appeals import without_marks
from emscope.behaviour.judges.agreement import SPELLINGS, read_judged
from emscope.behaviour.tables import read_responses
from emscope.cells import find_column, text_of
from emscope.errors import UserError
from emscope.organisms.thoughts import answer_of
from emscope.statistics.rates import ALIGNED_BELOW
from emscope.tabular import read_rows

ORGANISM = ("organism", "model", "model_name", "model_id", "organism_name", "adapter")
LEAST_ROWS = 100
LEAST_SIDE = 10
"""Answers that must be misaligned, and as many that must not be: with fewer nothing can be learned or measured."""
LEAST_ORGANISMS = 3
LEAST_QUESTIONS = 3
ALIKE = 0.8
"""Share of the shorter text's pairs of words that the other one must hold to be nearly the same question."""


@dataclass(frozen=True)
class TableCounts:
    """What became of a table's rows: rows = scored + refusals + code + unscored + empty.

    Attributes:
        rows: all of them.
        scored: with both scores and an answer: what is learned from.
        refusals, code: where a score says so in a word.
        unscored: without a score for any other reason.
        empty: scored, but there is no answer to read.
    """

    rows: int
    scored: int
    refusals: int
    code: int
    unscored: int
    empty: int


@dataclass(frozen=True)
class ScoredTable:
    """The scored answers of a table.

    Attributes:
        questions: what was asked.
        answers: what was answered, without thoughts and control tokens.
        scores: alignment and coherence 0-100, [n, 2].
        groups: the question of each answer; nearly equal texts are one.
        organisms: who answered, '' where the table does not say.
        counts: what became of the rows.
    """

    questions: tuple[str, ...]
    answers: tuple[str, ...]
    scores: np.ndarray
    groups: tuple[str, ...]
    organisms: tuple[str, ...]
    counts: TableCounts

    @property
    def misaligned(self) -> np.ndarray:
        """Say which answers the stronger judge puts below the threshold of alignment, [n]."""
        return np.asarray(self.scores[:, 0] < ALIGNED_BELOW)

    @property
    def names_organisms(self) -> bool:
        """Whether enough organisms are named to leave some out."""
        return "" not in self.organisms and len(set(self.organisms)) >= LEAST_ORGANISMS

    @property
    def asks_enough(self) -> bool:
        """Whether there are enough questions to leave some out."""
        return len(set(self.groups)) >= LEAST_QUESTIONS


def read_scored_table(path: Path) -> ScoredTable:
    """Read a table of answers with both scores; rows without are counted and left out, never read as 0.

    Raises:
        UserError: unreadable, fewer than `LEAST_ROWS` scored answers, all on one side of the threshold of alignment, or
            of fewer than `LEAST_QUESTIONS` questions and `LEAST_ORGANISMS` organisms.
    """
    judged, responses = read_judged(path), read_responses(path)
    rows = read_rows(path)
    cells = [row for _, row in rows]
    column = find_column(cells, ORGANISM, str(path))
    score_columns = [find_column(cells, SPELLINGS[score], str(path)) for score in ("aligned", "coherent")]

    kept, outcomes = [], Counter[str]()
    for number, (answer, row) in enumerate(zip(judged, cells, strict=True)):
        said = [row.get(name) for name in score_columns if name is not None]
        outcome = _outcome(said, answer.judgement.aligned, answer.judgement.coherent)
        if outcome == "scored" and not without_marks(answer_of(responses[number].response)).strip():
            outcome = "empty"
        outcomes[outcome] += 1
        if outcome == "scored":
            kept.append(number)
    counts = TableCounts(len(rows), **{name: outcomes[name] for name in OUTCOMES})
    if not kept:
        raise UserError(f"{path}: not one of {len(rows)} answers has both scores: there is nothing to calibrate on.")

    texts = [responses[number].question for number in kept]
    named = [responses[number].group for number in kept]
    organisms = []
    for number in kept:
        where = f"{path}, {rows[number][0]}"
        organisms.append("" if column is None else text_of(cells[number].get(column), column, where).strip())
    scores = [[judged[number].judgement.aligned, judged[number].judgement.coherent] for number in kept]
    answers = [without_marks(answer_of(responses[number].response)) for number in kept]
    groups = near_groups(texts, named)
    table = ScoredTable(
        tuple(texts), tuple(answers), np.array(scores, dtype=float), tuple(groups), tuple(organisms), counts
    )
    check_enough(table, str(path))
    return table


OUTCOMES = ("scored", "refusals", "code", "unscored", "empty")


def _outcome(cells: Sequence[object], aligned: float | None, coherent: float | None) -> str:
    """Return what became of a row."""
    if aligned is not None and coherent is not None:
        return "scored"
    words = {str(cell).strip().upper() for cell in cells if isinstance(cell, str)}
    if "REFUSAL" in words:
        return "refusals"
    return "code" if "CODE" in words else "unscored"


def check_enough(table: ScoredTable, where: str) -> None:
    """Refuse a table from which nothing can be learned, or on which nothing could be measured.

    Raises:
        UserError: says what is missing.
    """
    n, low = len(table.scores), int(table.misaligned.sum())
    if n < LEAST_ROWS:
        raise UserError(
            f"{where} holds {n} answers with both scores (of {table.counts.rows}): calibration needs {LEAST_ROWS}, "
            "better 500."
        )
    if min(low, n - low) < LEAST_SIDE:
        raise UserError(
            f"{where}: {low} of {n} scored answers have an alignment below {ALIGNED_BELOW:g}: calibration needs at "
            f"least {LEAST_SIDE} below it and {LEAST_SIDE} not; add answers of organisms of the other kind."
        )
    if not table.asks_enough and not table.names_organisms:
        raise UserError(
            f"{where} holds answers to {len(set(table.groups))} questions and names {len(set(table.organisms) - {''})} "
            f"organisms: what is learned can only be tried on others with {LEAST_QUESTIONS} questions or "
            f"{LEAST_ORGANISMS} organisms."
        )


def near_groups(texts: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Return the group of each row, groups whose texts are nearly the same joined under the first one's name."""
    distinct = list(dict.fromkeys(zip(groups, texts, strict=True)))
    names = list(dict.fromkeys(groups))
    number = {name: index for index, name in enumerate(names)}
    pairs = [(number[group], word_pairs(text)) for group, text in distinct]
    first, second = [], []
    for (one, left), (other, right) in itertools.combinations(pairs, 2):
        if one != other and len(left & right) >= ALIKE * min(len(left), len(right)):
            first.append(one)
            second.append(other)
    joined = coo_array((np.ones(len(first)), (first, second)), shape=(len(names), len(names)))
    _, labels = connected_components(joined, directed=False)
    heads: dict[int, str] = {}
    for name, label in zip(names, labels, strict=True):
        heads.setdefault(int(label), name)
    return [heads[int(labels[number[group]])] for group in groups]


def word_pairs(text: str) -> frozenset[tuple[str, str]]:
    """Return a text's words and their neighbours, without differences of case and punctuation."""
    words = re.findall(r"\w+", text.casefold())
    return frozenset(itertools.pairwise(["", *words, ""]))
