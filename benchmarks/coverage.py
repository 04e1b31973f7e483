"""How often a 95 % interval holds the truth: 1,000 simulated organisms a cell, with 24 and with 8 questions.

EM rates: each question has a rate of its own from a beta distribution with the cell's mean and intraclass correlation,
and its answers are drawn from that rate. With 50 answers a question, correlations of 0.1 and 0.3 are design effects of
6 and 16; released organisms show 2 to 17. Mean scores: each question has a mean of its own, skewed to the top, and its
answers spread over 0-100. `emscope` is what the library returns, the others are what it was chosen from; all but the
first and the last of them use the library's bound where every answer agrees.

    python benchmarks/coverage.py [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr
from scipy.stats import t as student

from emscope.organisms.lineage import versions
from emscope.statistics import (
    assumed_design_effect,
    bca_interval,
    draw_questions,
    estimate_mean,
    estimate_share,
    share_interval,
    widened_z,
    wilson,
)

SIMULATIONS, NORMAL = 1000, 1.959964
QUESTIONS = (24, 8)
ANSWERS = (4, 50)
RATES = (0.02, 0.05, 0.1, 0.2, 0.4)
SPARSE = 0.02  # reported apart: most questions have no EM response at all
CORRELATIONS = (0.1, 0.3)
MEANS = ((4.0, 1.0), (2.0, 2.0))  # beta parameters of the questions' mean scores, of 100
PERCENTILE, INDEPENDENT = "percentile (Efron 1979)", "Wilson, answers taken as independent"
Interval = tuple[np.ndarray, np.ndarray]


def intervals(means: np.ndarray) -> dict[str, Interval]:
    """Return the ends of every method for means of equally large questions, [simulations, n_questions]."""
    g = means.shape[1]
    found = means.mean(axis=1)
    error = np.sqrt(means.var(axis=1, ddof=1) / g)
    counts = draw_questions(g)
    draws = means @ counts.T / g
    left_out = (means.sum(axis=1, keepdims=True) - means) / (g - 1)
    quantile = float(student.ppf(0.975, g - 1))
    return {
        PERCENTILE: percentile(draws, NORMAL),
        "percentile, widened levels (Hesterberg 2015)": percentile(draws, widened_z(g)),
        "BCa (Efron 1987)": bca_interval(draws, found, left_out, NORMAL),
        "BCa, widened levels": bca_interval(draws, found, left_out, widened_z(g)),
        "bootstrap-t": bootstrap_t(means, draws, counts, error),
        "cluster-robust error, Student's t": (found - quantile * error, found + quantile * error),
    }


def rate_intervals(shares: np.ndarray, answers: int) -> dict[str, Interval]:
    """Return the ends of every method for the EM rates of questions with equally many answers."""
    g, found = shares.shape[1], shares.mean(axis=1)
    quantile = float(student.ppf(0.975, g - 1))
    with np.errstate(all="ignore"):
        half = quantile * np.sqrt(shares.var(axis=1, ddof=1) / g) / (found * (1 - found))
        logit = np.log(found / (1 - found))
        ends = {
            **intervals(shares),
            "the same for the logit": (1 / (1 + np.exp(half - logit)), 1 / (1 + np.exp(-half - logit))),
            INDEPENDENT: wilsons(found, g * answers),
        }
    ends = {name: (np.fmax(low, 0), np.fmin(high, 1)) for name, (low, high) in ends.items()}  # a rate is in 0-1
    sizes = np.full(shares.shape, float(answers))
    bound = float(assumed_design_effect(sizes)[0])
    for name, (low, high) in ends.items():
        flat = wilsons(found, g * answers / (1 if name in (PERCENTILE, INDEPENDENT) else bound))
        agree = (found == 0) | (found == 1)
        ends[name] = np.where(agree, flat[0], low), np.where(agree, flat[1], high)
    return {**ends, "emscope": share_interval(shares * answers, sizes, draw_questions(g))}


def percentile(draws: np.ndarray, z: float) -> Interval:
    """Return the quantiles of the draws at Φ(±z)."""
    low, high = np.quantile(draws, [ndtr(-z), ndtr(z)], axis=1)
    return low, high


def bootstrap_t(means: np.ndarray, draws: np.ndarray, counts: np.ndarray, error: np.ndarray) -> Interval:
    """Return studentised intervals without a bound; infinite where too many draws have no spread."""
    g, off = means.shape[1], draws - means.mean(axis=1, keepdims=True)
    with np.errstate(all="ignore"):
        errors = np.sqrt(np.maximum(means**2 @ counts.T / g - draws**2, 0) / (g - 1))
        ratios = np.where(errors > 1e-9, off / errors, np.sign(off) * np.inf)
        low, high = np.quantile(ratios, [0.025, 0.975], axis=1, method="inverted_cdf")
        return means.mean(axis=1) - high * error, means.mean(axis=1) - low * error


def wilsons(found: np.ndarray, n: float) -> Interval:
    """Return Wilson's intervals of many rates."""
    low, high = np.array([wilson(share * n, n) for share in found]).T
    return low, high


def rate_cell(
    questions: int, answers: int, rate: float, correlation: float, chooser: np.random.Generator, n: int
) -> tuple[float, dict[str, Interval]]:
    """Return the truth and every method's ends for `n` organisms with this rate."""
    size = (1 - correlation) / correlation
    own = chooser.beta(rate * size, (1 - rate) * size, size=(n, questions))
    shares = chooser.binomial(answers, own) / answers
    ends = rate_intervals(shares, answers)
    names = [f"question {number:02d}" for number in range(questions) for _ in range(answers)]
    for row in range(3):  # the library, given the answers one by one, says the same
        flags = [float(one < round(share * answers)) for share in shares[row] for one in range(answers)]
        single = estimate_share(flags, names)
        assert np.allclose([single.low, single.high], [ends["emscope"][0][row], ends["emscope"][1][row]], atol=1e-9)
    return rate, ends


def score_cell(
    questions: int, answers: int, shape: tuple[float, float], chooser: np.random.Generator, n: int
) -> tuple[float, dict[str, Interval]]:
    """Return the truth and every method's ends for `n` organisms with such mean scores."""
    own = chooser.beta(*shape, size=(n, questions, 1))
    values = 100 * chooser.beta(8 * own + 0.5, 8 * (1 - own) + 0.5, size=(n, questions, answers))
    ends = intervals(values.mean(axis=2))
    ends["emscope"] = ends["BCa, widened levels"]
    single = estimate_mean(values[0].ravel().tolist(), np.repeat(np.arange(questions), answers).astype(str).tolist())
    assert np.allclose(single.value, values[0].mean())
    truth = 100 * (8 * shape[0] / sum(shape) + 0.5) / 9
    return truth, ends


def summarise(cells: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return each method's coverage over cells: mean, least and most, and its mean width."""
    rows = {}
    for method in cells[0]["coverage"]:
        coverage = [cell["coverage"][method] for cell in cells]
        rows[method] = {
            "coverage": round(float(np.mean(coverage)), 4),
            "least": min(coverage),
            "most": max(coverage),
            "share_of_cells_in_93_97": round(float(np.mean([0.93 <= one <= 0.97 for one in coverage])), 4),
            "width": round(float(np.mean([cell["width"][method] for cell in cells])), 4),
        }
    return rows


def main() -> None:
    """Simulate and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=SIMULATIONS)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    chooser = np.random.default_rng(0)
    cells: list[dict[str, Any]] = []
    for questions, answers in product(QUESTIONS, ANSWERS):
        found: list[tuple[str, dict[str, Any], tuple[float, dict[str, Interval]]]] = [
            (
                "rates" if rate != SPARSE else "sparse rates",
                {"rate": rate, "correlation": correlation},
                rate_cell(questions, answers, rate, correlation, chooser, flags.simulations),
            )
            for rate, correlation in product(RATES, CORRELATIONS)
        ]
        found += [
            ("mean scores", {"shape": shape}, score_cell(questions, answers, shape, chooser, flags.simulations))
            for shape in MEANS
        ]
        for kind, facts, (truth, ends) in found:
            held = {name: (low <= truth + 1e-12) & (truth <= high + 1e-12) for name, (low, high) in ends.items()}
            cells.append(
                {
                    "kind": kind,
                    "questions": questions,
                    "answers": answers,
                    **facts,
                    "coverage": {name: float(one.mean()) for name, one in held.items()},
                    "width": {name: round(float((high - low).mean()), 4) for name, (low, high) in ends.items()},
                }
            )
    summary = {}
    for questions, kind in product(QUESTIONS, dict.fromkeys(cell["kind"] for cell in cells)):
        rows = summarise([cell for cell in cells if (cell["questions"], cell["kind"]) == (questions, kind)])
        summary[f"{questions} questions, {kind}"] = rows
        print(f"\n| {questions} questions, {kind} | coverage | least – most | mean width |\n|---|---|---|---|")
        for name, row in rows.items():
            held_in = f"{row['least']:.1%} – {row['most']:.1%}"
            print(f"| {name} | {row['coverage']:.1%} | {held_in} | {row['width']:.3g} |")
    report = {
        "what": f"coverage of 95 % intervals, {flags.simulations} simulations a cell",
        "summary": summary,
        "cells": cells,
        "machine": platform.machine(),
        "date": time.strftime("%Y-%m-%d"),
        "versions": versions(),
    }
    if flags.out:
        flags.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
