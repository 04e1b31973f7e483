"""All probes of a sweep at once against looping scikit-learn: 30 blocks, 5 grouped folds, 10 penalties, in one process.

Made-up activations of 1,000 questions on two sides: correlated content, one massive dimension, a shift that grows with
depth, so that early blocks are hard to separate and late ones easy. scikit-learn is measured on three blocks, one of
each third of the depth, and scaled; both ways take turns. Its directions depend on when it stops, so it is timed at its
default tolerance and at 1e-6, and both ways are compared with a solution to 1e-10.

    python benchmarks/probes.py [--repeats 2] [--out results.json]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from publish import publish
from sklearn.linear_model import LogisticRegression

from emscope.residual.probe import PENALTIES, fit_many

EXAMPLES, BLOCKS, WIDTH, FOLDS = 2000, 30, 576, 5
MEASURED = (5, 15, 25)
CHECKED_FOLDS = 2


def activations() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return activations [2000, 30, 576], labels and the question of each row."""
    chooser = np.random.default_rng(0)
    questions, labels = np.repeat(np.arange(EXAMPLES // 2), 2), np.tile([1, 0], EXAMPLES // 2)
    x = np.empty((EXAMPLES, BLOCKS, WIDTH), dtype=np.float32)
    for block in range(BLOCKS):
        basis = np.linalg.qr(chooser.standard_normal((WIDTH, WIDTH)))[0]
        content = (chooser.standard_normal((EXAMPLES // 2, WIDTH)) * 10 * np.arange(1, WIDTH + 1) ** -0.7) @ basis
        shift = chooser.standard_normal(WIDTH) / np.sqrt(WIDTH) * 3 * (block + 1) / BLOCKS
        x[:, block] = content[questions] + 0.5 * chooser.standard_normal((EXAMPLES, WIDTH)) + labels[:, None] * shift
    x[:, :, 0] += 300
    return x, labels, questions


def loop(x: np.ndarray, labels: np.ndarray, folds: np.ndarray, n_folds: int = FOLDS, **how: Any) -> np.ndarray:
    """Return scikit-learn's directions [blocks, folds, penalties, width] of the measured blocks, standardised."""
    found = np.empty((len(MEASURED), n_folds, len(PENALTIES), WIDTH))
    for place, block in enumerate(MEASURED):
        part = (x[:, block] - x[:, block].mean(0)) / x[:, block].std(0)
        for fold in range(n_folds):
            kept = folds != fold
            for number, penalty in enumerate(PENALTIES):
                model = LogisticRegression(C=1 / penalty, max_iter=100_000, **how).fit(part[kept], labels[kept])
                found[place, fold, number] = model.coef_[0]
    return found


def at_once(x: np.ndarray, labels: np.ndarray, folds: np.ndarray) -> np.ndarray:
    """Return our directions of every block [blocks, folds, penalties, width] in standardised space."""
    weights = np.repeat([(folds != fold).astype(float) for fold in range(FOLDS)], len(PENALTIES), axis=0)
    found = fit_many(x, np.tile(labels, (len(weights), 1)), weights, np.tile(PENALTIES, FOLDS))
    scaled = found.weights * x.std(axis=0)
    return np.asarray(scaled.transpose(1, 0, 2).reshape(BLOCKS, FOLDS, len(PENALTIES), WIDTH))


def cosines(one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """Return the cosines of matching vectors."""
    return np.asarray((one * two).sum(-1) / np.linalg.norm(one, axis=-1) / np.linalg.norm(two, axis=-1))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    warnings.simplefilter("ignore")
    x, labels, questions = activations()
    folds = questions % FOLDS
    ways: dict[str, dict[str, Any]] = {"emscope": {}, "default": {}, "tight": {"tol": 1e-6}}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    found = {}
    at_once(x[:, :2].repeat(BLOCKS // 2, axis=1), labels, folds)  # loads kernels
    for _ in range(flags.repeats):
        for name, how in ways.items():
            started = time.perf_counter(), time.process_time()
            found[name] = at_once(x, labels, folds) if name == "emscope" else loop(x, labels, folds, **how)
            scale = 1 if name == "emscope" else BLOCKS / len(MEASURED)
            seconds[name].append((time.perf_counter() - started[0]) * scale)
            cpu[name].append((time.process_time() - started[1]) * scale)
            print(f"{name}: {seconds[name][-1]:.1f} s, {cpu[name][-1]:.1f} s of CPU time", file=sys.stderr, flush=True)
    exact = loop(x.astype(np.float64), labels, folds, CHECKED_FOLDS, tol=1e-10, solver="newton-cholesky")
    checked = {
        name: (item[list(MEASURED)] if name == "emscope" else item)[:, :CHECKED_FOLDS] for name, item in found.items()
    }
    ratios = {
        name: [theirs / ours for theirs, ours in zip(seconds[name], seconds["emscope"], strict=True)]
        for name in ("default", "tight")
    }
    report = {
        "what": f"{BLOCKS * FOLDS * len(PENALTIES)} probes on {EXAMPLES} x {BLOCKS} x {WIDTH} float32: "
        f"{FOLDS} grouped folds, penalties {PENALTIES[0]:g}-{PENALTIES[-1]:g}, seconds",
        "emscope": statistics.median(seconds["emscope"]),
        "scikit_learn_default_tolerance": statistics.median(seconds["default"]),
        "scikit_learn_tolerance_1e-6": statistics.median(seconds["tight"]),
        "ratio_default": statistics.median(ratios["default"]),
        "ratio_default_range": [min(ratios["default"]), max(ratios["default"])],
        "ratio_1e-6": statistics.median(ratios["tight"]),
        "ratio_1e-6_range": [min(ratios["tight"]), max(ratios["tight"])],
        "least_cosine_with_exact": {
            "emscope": float(cosines(checked["emscope"], exact).min()),
            "scikit_learn_default": float(cosines(checked["default"], exact).min()),
            "scikit_learn_1e-6": float(cosines(checked["tight"], exact).min()),
        },
        "cpu_seconds": {name: statistics.median(values) for name, values in cpu.items()},
        "measured_blocks": list(MEASURED),
        "repeats": flags.repeats,
    }
    publish(report, flags.out)


if __name__ == "__main__":
    main()
