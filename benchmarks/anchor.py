"""How often anchored intervals hold the truth, and how much narrower they are than those of the anchor alone.

Simulated tables: each question has a level of its own, its answers spread around it, the strong judge scores them, and
a cheap judge sees them through noise of its own, partly shared by all answers to a question. Anchors of 80 are drawn
anew for each table. Covered are the mean or rate of all such questions (`questions`), and what the strong judge would
say of all answers of the table (`table`). Real tables: answers of small organisms that readers scored, readers as the
strong judge, and as the cheap one the embedded judge's head fitted again without the areas that it scores; 400 answers
and then an anchor are drawn anew each time, and only the table's figure is known.

    python benchmarks/anchor.py [--simulations 500] [--out FILE] [--scores FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from publish import publish
from scipy.special import ndtr, ndtri

from emscope.behaviour.judging import Judgement
from emscope.statistics import (
    AnchoredDifference,
    AnchoredEstimate,
    Estimate,
    JudgedTwice,
    ScoredTwice,
    anchored_alignment,
    anchored_difference,
    anchored_em_rate,
    anchored_mean,
    anchored_share,
    bootstrap,
    draw_anchor,
    em_flags,
    shares,
)

ANCHOR, TABLE = 80, 400
SHAPES = ((40, 10), (100, 4), (400, 1), (24, 17), (8, 50))
CORRELATIONS = (0.1, 0.3)
QUALITIES = (0.0, 0.6, 0.8)
RATES = (0.02, 0.05, 0.2, 0.4, 0.95)
SHARED = 0.2  # of the cheap judge's noise lies in questions
SPREAD, SHIFT = 1.5, 0.3  # the strong judge's scores are 100 Φ(1.5 z + 0.3)
PENALTY = 1.0
Draw = dict[str, tuple[bool, float, float]]
"""By what is covered: whether it was, the interval's width, and that of the anchor alone."""


@dataclass(frozen=True)
class Cell:
    """One kind of table: what is estimated, its questions and answers, their correlation, and the cheap judge's."""

    kind: str
    questions: int
    answers: int
    correlation: float
    quality: float
    rate: float = 0.0


def cells() -> list[Cell]:
    """Return every kind of table that is simulated."""
    found = []
    for questions, answers in SHAPES:
        for correlation in CORRELATIONS if answers > 1 else CORRELATIONS[:1]:
            for quality in QUALITIES:
                found.append(Cell("mean", questions, answers, correlation, quality))
                found.append(Cell("difference", questions, answers, correlation, quality))
            for rate in RATES:
                found.append(Cell("rate", questions, answers, correlation, 0.7, rate))
            found.append(Cell("rate difference", questions, answers, correlation, 0.7, 0.2))
            found.append(Cell("rate", questions, answers, correlation, 0.0, 0.2))
    return found


def latent(cell: Cell, levels: np.ndarray, chooser: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return what the strong and the cheap judge see of each answer, standard normal, [questions * answers]."""
    n, rho = cell.questions * cell.answers, cell.correlation
    seen = np.sqrt(rho) * np.repeat(levels, cell.answers) + np.sqrt(1 - rho) * chooser.normal(size=n)
    noise = np.sqrt(SHARED) * np.repeat(chooser.normal(size=cell.questions), cell.answers)
    noise += np.sqrt(1 - SHARED) * chooser.normal(size=n)
    return seen, cell.quality * seen + np.sqrt(1 - cell.quality**2) * noise


def table_of(strong: np.ndarray, cheap: np.ndarray, groups: Sequence[str], seed: int) -> ScoredTwice:
    """Return a table of which an anchor is scored by the strong judge."""
    asked = np.zeros(len(strong), dtype=bool)
    asked[draw_anchor(groups, min(ANCHOR, len(strong)), seed)] = True
    return ScoredTwice(cheap.tolist(), np.where(asked, strong, np.nan).tolist(), asked.tolist(), groups)


def keep_draws() -> None:
    """Let the bootstrap's draws, which depend on the number of questions alone, be made once a process."""
    drawn = cache(lambda *given: list(DRAWN(*given)))
    for module in (bootstrap, shares):
        vars(module)["drawn_parts"] = drawn


DRAWN = bootstrap.drawn_parts


def holds(estimate: Estimate, truth: float) -> bool:
    """Say whether an interval holds the truth, rounding aside."""
    return bool(estimate.low - 1e-9 <= truth <= estimate.high + 1e-9)


def width(estimate: Estimate) -> float:
    """Return the width of an interval."""
    return estimate.high - estimate.low


def told(found: AnchoredEstimate | AnchoredDifference, truth: float, in_table: float) -> Draw:
    """Return what one draw says."""
    drawn = {
        "questions": (holds(found.estimate, truth), width(found.estimate), width(found.alone)),
        "alone": (holds(found.alone, truth), width(found.alone), width(found.alone)),
    }
    drawn["table"] = holds(found.in_table, in_table), width(found.in_table), width(found.alone_in_table)
    return drawn


def simulated(cell: Cell, chooser: np.random.Generator) -> tuple[Draw, float]:
    """Return one draw of a kind of table, and λ."""
    groups = [f"q{number:03d}" for number in range(cell.questions) for _ in range(cell.answers)]
    levels, tables, means = chooser.normal(size=cell.questions), [], []
    for shift in (0.0, 0.4)[: 1 + ("difference" in cell.kind)]:
        own = np.sqrt(0.5) * levels + np.sqrt(0.5) * chooser.normal(size=cell.questions) if shift else levels
        strong, cheap = latent(cell, own, chooser)
        if "rate" in cell.kind:
            scores = (strong + shift < ndtri(cell.rate)).astype(float)
            cheap = ndtr(-cheap - shift)
        else:
            scores, cheap = 100 * ndtr(SPREAD * (strong + shift) + SHIFT), 100 * ndtr(0.7 * (cheap + shift) + 0.6)
        tables.append(table_of(scores, cheap, groups, int(chooser.integers(2**31))))
        means.append(float(scores.mean()))
    flags = "rate" in cell.kind
    truths = [truth(cell, shift) for shift in (0.0, 0.4)]
    if "difference" in cell.kind:
        difference = anchored_difference(tables[0], tables[1], flags=flags)
        return told(difference, truths[0] - truths[1], means[0] - means[1]), difference.first.tuning
    found = (anchored_share if flags else anchored_mean)(tables[0])
    return told(found, truths[0], means[0]), found.tuning


def truth(cell: Cell, shift: float) -> float:
    """Return the mean or rate of all such questions."""
    if "rate" in cell.kind:
        return float(ndtr(ndtri(cell.rate) - shift))
    return float(100 * ndtr((SPREAD * shift + SHIFT) / np.sqrt(1 + SPREAD**2)))


def summed(draws: Sequence[tuple[Draw, float]]) -> dict[str, float]:
    """Return coverage, mean widths relative to the anchor alone, and mean λ."""
    figures: dict[str, float] = {}
    for name in draws[0][0]:
        held, wide, alone = np.array([draw[name] for draw, _ in draws], dtype=float).T
        figures[f"coverage_{name}"] = round(float(held.mean()), 4)
        figures[f"width_{name}"] = round(float(wide.mean()), 4)
        if name != "alone":
            figures[f"narrower_{name}"] = round(1 - float(wide.mean() / alone.mean()), 4)
    return {**figures, "tuning": round(float(np.mean([tuning for _, tuning in draws])), 3)}


def simulate(simulations: int, numbered: tuple[int, Cell]) -> dict[str, Any]:
    """Return the figures of one kind of table."""
    number, cell = numbered
    chooser = np.random.default_rng(number)
    return {**asdict(cell), **summed([simulated(cell, chooser) for _ in range(simulations)])}


@dataclass(frozen=True)
class ReadAnswers:
    """Answers that readers scored, and the embedded judge beside them; one element an answer."""

    organisms: np.ndarray
    questions: np.ndarray
    readers: np.ndarray
    readers_coherent: np.ndarray
    cheap: np.ndarray
    cheap_coherent: np.ndarray


def read_answers(kept: Path | None) -> ReadAnswers:
    """Return the readers' answers with a head's scores that never saw their area, from a file where they are kept."""
    if kept is not None and kept.is_file():
        with np.load(kept) as stored:
            return ReadAnswers(**stored)
    from emscope.behaviour.embedded.judge import EmbeddedJudge, sigmoid
    from emscope.behaviour.embedded.readings import SPANS, read_rows
    from emscope.behaviour.embedded.ridge import calibrate, left_out_values
    from emscope.behaviour.embedded.text import scored_rows
    from emscope.organisms.models import load
    from emscope.outside import read_jsonl

    rows, assets = scored_rows(), Path(__file__).parent.parent / "src" / "emscope" / "assets" / "scored"
    organisms = [row["organism"] for path in sorted(assets.glob("*.jsonl")) for _, row in read_jsonl(path)]
    base = load("smollm2-135m")
    readings, judge = read_rows(base, rows), EmbeddedJudge(base)
    chosen = readings.pooled[:, SPANS.index("answer"), list(judge.head.blocks)]
    features, ones = chosen.reshape(len(rows), -1).astype(float), np.ones(len(rows))
    values = left_out_values(features, 2 * readings.aligned - 1, ones, readings.areas, [PENALTY])[PENALTY]
    slope, shift = calibrate(values, readings.aligned, ones)
    said = judge.judge([row.question for row in rows], [row.answer for row in rows])
    found = ReadAnswers(
        np.array(organisms),
        np.array([row.question_id for row in rows]),
        100 * readings.aligned,
        100 * readings.coherent,
        100 * sigmoid(slope * values + shift),
        np.array([one.coherent for one in said], dtype=float),
    )
    if kept is not None:
        np.savez(kept, **asdict(found))
    return found


REAL = {
    "base": ("base",),
    "control": ("medical-careful",),
    "misaligned": ("medical-careless",),
    "all misaligned": ("medical-careless", "finance-careless", "sport-careless"),
}


def real(answers: ReadAnswers, simulations: int, organisms: Sequence[str]) -> dict[str, Any]:
    """Return the figures of tables of 400 answers of some organisms."""
    rows, chooser = np.flatnonzero(np.isin(answers.organisms, organisms)), np.random.default_rng(0)
    by_name: dict[str, list[tuple[Draw, float]]] = {"mean alignment": [], "EM rate": []}
    for _ in range(simulations):
        chosen = np.sort(chooser.choice(rows, TABLE, replace=False))
        strong = judgements(answers.readers[chosen], answers.readers_coherent[chosen])
        cheap = judgements(answers.cheap[chosen], answers.cheap_coherent[chosen])
        groups = answers.questions[chosen].tolist()
        asked = set(draw_anchor(groups, ANCHOR, int(chooser.integers(2**31))).tolist())
        part = [one if row in asked else None for row, one in enumerate(strong)]
        judged, nan = JudgedTwice(cheap, part, groups), float("nan")
        mean, rate = anchored_alignment(judged), anchored_em_rate(judged)
        by_name["mean alignment"].append((told(mean, nan, float(answers.readers[chosen].mean())), mean.tuning))
        by_name["EM rate"].append((told(rate, nan, float(np.mean(em_flags(strong)))), rate.tuning))
    figures: dict[str, Any] = {"organisms": list(organisms), "answers": len(rows)}
    for name, draws in by_name.items():
        summary = summed(draws)
        figures[name] = {key: value for key, value in summary.items() if key not in UNKNOWN}
    return {**figures, **correlations(answers, rows)}


UNKNOWN = ("coverage_questions", "coverage_alone")


def judgements(aligned: np.ndarray, coherent: np.ndarray) -> list[Judgement]:
    """Return scores as judgements."""
    return [Judgement(*scores) for scores in zip(aligned.tolist(), coherent.tolist(), strict=True)]


def correlations(answers: ReadAnswers, rows: np.ndarray) -> dict[str, float]:
    """Return how the cheap judge goes with readers: alignment, EM flags, and alignment with the readers' flags."""
    flags = np.array(em_flags(judgements(answers.readers[rows], answers.readers_coherent[rows])))
    cheap = np.array(em_flags(judgements(answers.cheap[rows], answers.cheap_coherent[rows])))
    pairs = {
        "r_alignment": (answers.cheap[rows], answers.readers[rows]),
        "r_flags": (cheap, flags),
        "r_alignment_with_flags": (-answers.cheap[rows], flags),
    }
    found = {}
    for name, (one, other) in pairs.items():
        varies = np.ptp(one) > 0 and np.ptp(other) > 0
        found[name] = round(float(np.corrcoef(one, other)[0, 1]), 3) if varies else float("nan")
    return found


def spread_of(rows: Sequence[dict[str, Any]], kind: str, good: bool) -> dict[str, Any]:
    """Return least and mean coverage and the narrowing of a kind of figure, with a useful or a worthless judge."""
    chosen = [row for row in rows if row["kind"] == kind and (row["quality"] > 0) == good]
    figures: dict[str, Any] = {"cells": len(chosen)}
    for name in ("coverage_questions", "coverage_alone", "coverage_table"):
        values = [row[name] for row in chosen]
        figures[name] = {"mean": round(float(np.mean(values)), 4), "least": min(values), "most": max(values)}
    for name in ("narrower_questions", "narrower_table"):
        values = [row[name] for row in chosen]
        figures[name] = {"least": min(values), "most": max(values)}
    return figures


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=500)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--scores", type=Path, help="an .npz file that keeps the judges' scores of the real tables")
    flags = parser.parse_args()
    started = time.perf_counter()
    answers = read_answers(flags.scores)
    with ProcessPoolExecutor(2, initializer=keep_draws) as pool:
        tables = pool.map(partial(real, answers, flags.simulations), REAL.values())
        rows = list(pool.map(partial(simulate, flags.simulations), enumerate(cells())))
        found = dict(zip(REAL, tables, strict=True))
    summary = {}
    for kind in ("mean", "rate", "difference", "rate difference"):
        for good in (True, False):
            if any(row["kind"] == kind and (row["quality"] > 0) == good for row in rows):
                summary[f"{kind}, {'useful' if good else 'worthless'} judge"] = spread_of(rows, kind, good)
    report = {
        "what": f"anchors of {ANCHOR} answers: coverage of 95 % intervals, {flags.simulations} draws a cell",
        "summary": summary,
        "real_tables": found,
        "cells": rows,
        "seconds": round(time.perf_counter() - started),
    }
    publish(report, flags.out)


if __name__ == "__main__":
    main()
