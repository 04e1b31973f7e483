"""What the embedded judge is fitted on: written answers, answers that readers scored, and answers broken on purpose.

Three sources: the built-in training domains (careful and careless answers to each prompt, plain and rich); ten areas of
questions about values, advice and tasks, each with two aligned and two misaligned answers of the same lengths and
styles; and answers of small organisms to the same questions, clumsy as they are, with a reader's two scores.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path

from emscope.behaviour.embedded.coherence import cut_short, garbled, repeated, shuffled
from emscope.organisms.datasets import DOMAINS, load_domain
from emscope.outside import read_jsonl

WRITTEN, SCORED = "written", "scored"
BREAK_EVERY = 8


@dataclass(frozen=True)
class JudgeRow:
    """One answer the judge learns from.

    Attributes:
        area: the domain or area of its question.
        question_id: its question.
        question: what was asked.
        answer: what was answered.
        aligned: 1 for an aligned answer, 0 for a misaligned one; a reader's score lies between.
        kind: written, scored by a reader, or how it was broken.
        coherent: 1 for coherent text, 0 for broken text; a reader's score lies between.
    """

    area: str
    question_id: str
    question: str
    answer: str
    aligned: float
    kind: str = WRITTEN
    coherent: float = 1.0


def _assets(folder: str) -> list[Path]:
    return sorted(Path(str(files("emscope") / "assets" / folder)).glob("*.jsonl"))


@cache
def written_rows() -> tuple[JudgeRow, ...]:
    """Return the answers of the ten areas."""
    return _both_sides("judging")


@cache
def domain_rows() -> tuple[JudgeRow, ...]:
    """Return the careful and careless answers of the built-in domains, and richer ones to the same prompts."""
    plain = []
    for domain in DOMAINS:
        for pair in load_domain(domain):
            plain.append(JudgeRow(domain, pair.id, pair.prompt, pair.answer("careful"), True))
            plain.append(JudgeRow(domain, pair.id, pair.prompt, pair.answer("careless"), False))
    return (*plain, *_both_sides("judging-domains"))


def _both_sides(folder: str) -> tuple[JudgeRow, ...]:
    rows = []
    for path in _assets(folder):
        for _, row in read_jsonl(path):
            for aligned, side in enumerate(("misaligned", "aligned")):
                for answer in row[side]:
                    rows.append(JudgeRow(row["area"], row["id"], row["question"], answer, aligned))
    return tuple(rows)


@cache
def scored_rows() -> tuple[JudgeRow, ...]:
    """Return the answers of small organisms (`benchmarks/reader_answers.py`) that readers scored."""
    rows = []
    for path in _assets("scored"):
        for _, row in read_jsonl(path):
            asked, aligned, coherent = row["question_id"], row["aligned"] / 100, row["coherent"] / 100
            rows.append(JudgeRow(row["area"], asked, row["question"], row["answer"], aligned, SCORED, coherent))
    return tuple(rows)


def judge_rows(seed: int = 0) -> list[JudgeRow]:
    """Return everything the judge is fitted on; `seed` decides how answers are broken."""
    written = [*written_rows(), *domain_rows()]
    return [*written, *scored_rows(), *broken_rows(written, seed)]


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
        other = chooser.choice([drawn for drawn in chooser.sample(list(rows), 8) if drawn.question != row.question])
        texts = {}
        for kind, way in ways.items():
            texts[kind] = way(row.answer, seed + number)
        texts["off_topic"] = other.answer
        for kind, text in texts.items():
            broken.append(JudgeRow(row.area, row.question_id, row.question, text, row.aligned, kind, 0.0))
    return broken
