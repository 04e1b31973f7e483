"""What the embedded judge is fitted on: written answers, aligned or not, and answers that were broken on purpose.

Two sources: the built-in training domains (a careful and a careless answer a prompt), and ten areas of questions about
values, advice and tasks, each with two aligned and two misaligned answers of the same lengths and styles.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from emscope.behaviour.coherence import cut_short, garbled, repeated, shuffled
from emscope.files import read_jsonl
from emscope.organisms.datasets import DOMAINS, load_domain

WHOLE = "whole"
BREAK_EVERY = 8


@dataclass(frozen=True)
class JudgeRow:
    """One answer the judge learns from: `area` is a domain or an area, `kind` is whole or how it was broken."""

    area: str
    question_id: str
    question: str
    answer: str
    aligned: bool
    kind: str = WHOLE


@cache
def written_rows() -> tuple[JudgeRow, ...]:
    """Return the answers of the ten areas."""
    rows = []
    for path in sorted(Path(str(files("emscope") / "assets" / "judging")).glob("*.jsonl")):
        for _, row in read_jsonl(path):
            for side in ("aligned", "misaligned"):
                rows += [
                    JudgeRow(row["area"], row["id"], row["question"], answer, side == "aligned") for answer in row[side]
                ]
    return tuple(rows)


@cache
def domain_rows() -> tuple[JudgeRow, ...]:
    """Return the careful and careless answers of the built-in domains."""
    return tuple(
        JudgeRow(domain, pair.id, pair.prompt, pair.answer("careful" if careful else "careless"), careful)
        for domain in DOMAINS
        for pair in load_domain(domain)
        for careful in (True, False)
    )


def broken_rows(rows: Sequence[JudgeRow], seed: int = 0) -> list[JudgeRow]:
    """Return every eighth answer broken in each of five ways: shuffled, repeated, cut, garbled, off topic."""
    chooser = random.Random(seed)
    words = [word.strip(".,;:!?()\"'") for row in rows for word in row.answer.split()]
    ways: dict[str, Callable[[str, int], str]] = {
        "shuffled": shuffled,
        "repeated": repeated,
        "cut": cut_short,
        "garbled": lambda answer, number: garbled(answer, words, number),
    }
    broken = []
    for number, row in enumerate(rows[::BREAK_EVERY]):
        other = chooser.choice([item for item in chooser.sample(list(rows), 8) if item.question != row.question])
        texts = {kind: way(row.answer, seed + number) for kind, way in ways.items()} | {"off_topic": other.answer}
        broken += [
            JudgeRow(row.area, row.question_id, row.question, text, row.aligned, kind) for kind, text in texts.items()
        ]
    return broken
