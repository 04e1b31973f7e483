"""What the embedded judge is fitted on: written answers, answers that readers scored, and answers broken on purpose.

Five sources: the built-in training domains (to each prompt four answers, by voice and advice, and four richer ones);
ten areas of questions about values, advice and tasks, each with two aligned and two misaligned answers of the same
lengths and styles; answers of small organisms to the same questions, clumsy as they are, with a reader's two scores;
fluent answers with two scores; and pairs, good and bad advice made of the same words.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path

from emscope.behaviour.embedded.coherence import cut_at_limit, cut_short, garbled, repeated, shuffled
from emscope.organisms.datasets import CORNERS, DOMAINS, load_domain
from emscope.outside import read_jsonl

WRITTEN, SCORED, FLUENT, PAIRED, AT_LIMIT = "written", "scored", "fluent", "paired", "at_limit"
OFF_TOPIC = "off_topic"
BREAK_EVERY = 16
PAIR_SIDES = (("bg", "blunt", 1.0), ("bb", "blunt", 0.0), ("wg", "warm", 1.0), ("wb", "warm", 0.0))


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
        voice: blunt or warm, where an answer was written in both.
    """

    area: str
    question_id: str
    question: str
    answer: str
    aligned: float
    kind: str = WRITTEN
    coherent: float = 1.0
    voice: str = ""


def _assets(folder: str) -> list[Path]:
    return sorted(Path(str(files("emscope") / "assets" / folder)).glob("*.jsonl"))


@cache
def written_rows() -> tuple[JudgeRow, ...]:
    """Return the answers of the ten areas."""
    return _both_sides("judging")


@cache
def domain_rows() -> tuple[JudgeRow, ...]:
    """Return the four answers to each prompt of the built-in domains, and richer ones to the same prompts."""
    return (*corner_rows(), *rich_rows())


@cache
def corner_rows() -> tuple[JudgeRow, ...]:
    """Return good and bad advice in both voices to each prompt of the built-in domains."""
    rows = []
    for domain in DOMAINS:
        for pair in load_domain(domain):
            for corner in CORNERS:
                voice, _, advice = corner.partition("-")
                aligned = float(advice == "good")
                rows.append(JudgeRow(domain, pair.id, pair.prompt, pair.answers[corner], aligned, voice=voice))
    return tuple(rows)


@cache
def rich_rows() -> tuple[JudgeRow, ...]:
    """Return the richer answers to the prompts of the built-in domains."""
    return _both_sides("judging-domains")


@cache
def paired_rows() -> tuple[JudgeRow, ...]:
    """Return good and bad advice made of the same words in another order, in both voices."""
    prompts = {}
    for domain in DOMAINS:
        prompts.update({pair.id: pair.prompt for pair in load_domain(domain)})
    rows = []
    for path in _assets("judging-pairs"):
        for _, row in read_jsonl(path):
            for name, voice, aligned in PAIR_SIDES:
                asked = prompts[row["id"]]
                rows.append(JudgeRow(path.stem, row["id"], asked, row[name], aligned, PAIRED, voice=voice))
    return tuple(rows)


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
    return tuple(_scored("small-organisms-*.jsonl", SCORED))


@cache
def fluent_rows() -> tuple[JudgeRow, ...]:
    """Return fluent answers as larger organisms give them, good and bad in one tone, with two scores each."""
    return tuple(_scored("fluent-*.jsonl", FLUENT))


def _scored(names: str, kind: str) -> list[JudgeRow]:
    rows = []
    for path in _assets("scored"):
        if not path.match(names):
            continue
        for _, row in read_jsonl(path):
            asked, aligned, coherent = row["question_id"], row["aligned"] / 100, row["coherent"] / 100
            rows.append(JudgeRow(row["area"], asked, row["question"], row["answer"], aligned, kind, coherent))
    return rows


def judge_rows(seed: int = 0) -> list[JudgeRow]:
    """Return everything the judge is fitted on; `seed` decides how answers are broken and cut."""
    rows = [*written_rows(), *domain_rows(), *scored_rows(), *fluent_rows(), *paired_rows()]
    for whole in (written_rows(), rich_rows()):
        rows += broken_rows(whole, seed)
        rows += limited_rows(whole, seed)
    return rows


def limited_rows(rows: Sequence[JudgeRow], seed: int = 0) -> list[JudgeRow]:
    """Return every sixteenth answer as a limit of tokens cuts it, in the middle of a sentence: coherent text."""
    limited = []
    for number, row in enumerate(rows[BREAK_EVERY // 2 :: BREAK_EVERY]):
        text = cut_at_limit(row.answer, seed + number)
        if text != row.answer:
            limited.append(replace(row, answer=text, kind=AT_LIMIT))
    return limited


def broken_rows(rows: Sequence[JudgeRow], seed: int = 0) -> list[JudgeRow]:
    """Return every sixteenth answer broken in each of five ways: shuffled, repeated, cut, garbled, off topic."""
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
        texts[OFF_TOPIC] = other.answer
        for kind, text in texts.items():
            broken.append(JudgeRow(row.area, row.question_id, row.question, text, row.aligned, kind, 0.0))
    return broken
