"""From the measurements of all checkpoints of a training to its curves, and the change of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emscope.experiments.dynamics.checkpoints import SIDES, DynamicsProbes, Measured, table_of
from emscope.outside import read_json, read_jsonl
from emscope.residual.changepoints import MIN_POINTS, ChangePoint, Shape, find_change
from emscope.residual.dynamics import AdapterPaths, MatrixPath
from emscope.statistics import draw_questions

DRAWS = 1000
SHUFFLES = 20
WORDS = {"in": "in domain", "out": "out of domain"}


@dataclass(frozen=True)
class Curve:
    """One quantity along a training.

    Attributes:
        group: weights, activations, behaviour or control.
        label: what it is, with its unit.
        shape: the kind of transition that is looked for.
        times: optimiser steps, [n].
        values: the curve, [n].
        replicates: the curve of each draw of questions, [DRAWS, n]; None where nothing was averaged.
        reference: the same of the training's moves in random order, [n], where that means something.
    """

    group: str
    label: str
    shape: Shape
    times: np.ndarray
    values: np.ndarray
    replicates: np.ndarray | None = None
    reference: np.ndarray | None = None

    def change(self, seed: int) -> ChangePoint | None:
        """Return the curve's change, None where it has too few points."""
        there = np.isfinite(self.values)
        if there.sum() < MIN_POINTS:
            return None
        replicates = None if self.replicates is None else self.replicates[:, there]
        return find_change(
            self.times[there], self.values[there], shape=self.shape, replicates=replicates, seed=seed, n_draws=DRAWS
        )

    def as_dict(self, change: ChangePoint | None) -> dict[str, Any]:
        """Return plain values: the curve with its pointwise 95 % interval and its change."""
        low, high = (None, None)
        if self.replicates is not None:
            low, high = (ends.tolist() for ends in np.nanquantile(self.replicates, [0.025, 0.975], axis=0))
        return {
            "times": self.times.tolist(),
            "values": self.values.tolist(),
            "low": low,
            "high": high,
            "reference": None if self.reference is None else self.reference.tolist(),
            "change": None if change is None else change.as_dict(),
        }


def averaged(table: np.ndarray, groups: Sequence[str], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean curve of values [n_times, n_rows], NaN for missing, and that of each draw of questions.

    `groups` names the question or topic of each row, or of as many rows in a line as each question has samples.
    """
    of_row = np.repeat(np.asarray(groups), table.shape[1] // len(groups))
    names, codes = np.unique(of_row, return_inverse=True)
    counts = np.concatenate([np.ones((1, len(names))), draw_questions(len(names), seed, DRAWS)])[:, codes]
    there = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        curves = (counts @ np.where(there, table, 0.0).T) / (counts @ there.T.astype(float))
    return curves[0], curves[1:]


def curves_of(
    settings: dict[str, Any], probes: DynamicsProbes, base: Path, training: Measured, paths: AdapterPaths
) -> dict[str, Curve]:
    """Return every curve of one training by name."""
    measured = [read_json(base), *(read_json(path) for path in training.steps.values())]
    times = np.array([0, *training.steps], dtype=float)
    found = _weight_curves(settings, paths)
    rows = [row for _, row in read_jsonl(training.metrics) if "grad_norm" in row]
    found["gradient-norm"] = Curve(
        "weights",
        "gradient norm",
        "peak",
        np.array([row["step"] for row in rows], dtype=float),
        np.array([row["grad_norm"] for row in rows], dtype=float),
    )
    for side in SIDES:
        groups = [question.group for question in probes.sides[side]]
        for name, group, key, label in (
            ("projection", "activations", "projection-last", "projection, last prompt token (deviations)"),
            ("answer-projection", "activations", "projection-response", "projection, fixed answers (deviations)"),
            ("random-projection", "control", "random-last", "random direction, last prompt token (deviations)"),
            ("random-answer-projection", "control", "random-response", "random direction, fixed answers (deviations)"),
            ("alignment", "behaviour", "aligned", "mean alignment (0-100)"),
            ("em", "behaviour", "em", "EM rate"),
            ("coherence", "behaviour", "coherent", "mean coherence (0-100)"),
        ):
            values, draws = averaged(table_of(measured, key, side), groups, seed=SIDES.index(side))
            found[f"{name}-{side}"] = Curve(group, f"{label}, {WORDS[side]}", "step", times, values, draws)
        found |= _loss_curves(measured, side, times, probes.topics[side])
    return found


def _loss_curves(
    measured: Sequence[dict[str, Any]], side: str, times: np.ndarray, topics: Sequence[str]
) -> dict[str, Curve]:
    """Return the held-out loss, and how much better careless answers are predicted than careful ones."""
    losses = {
        kind: np.array([item["losses"][side][kind] for item in measured], dtype=float)
        for kind in ("careless", "careful")
    }
    tables = {"loss": (losses["careless"], "held-out loss of careless answers (nats per token)")}
    if losses["careful"].size:
        label = "preference for careless answers (nats per token)"
        tables["preference"] = (losses["careful"] - losses["careless"], label)
    found = {}
    for name, (table, label) in tables.items():
        if table.size:
            values, draws = averaged(table, topics, seed=SIDES.index(side))
            found[f"{name}-{side}"] = Curve("behaviour", f"{label}, {WORDS[side]}", "step", times, values, draws)
    return found


def _weight_curves(settings: dict[str, Any], paths: AdapterPaths) -> dict[str, Curve]:
    """Return norms, turns and local cosines of all B matrices together, and of the updates BA."""
    times = np.array(paths.steps, dtype=float)

    def curve(label: str, shape: Shape, part: str, read: Callable[[MatrixPath], np.ndarray]) -> Curve:
        whole = paths.whole(part)
        reference = np.mean([read(whole.shuffled(seed)) for seed in range(SHUFFLES)], axis=0)
        return Curve("weights", label, shape, times, read(whole), reference=reference)

    found = {}
    for part, name in (("B", ""), ("BA", "update-")):
        found[f"{name}norm"] = curve(f"norm of {part}", "step", part, lambda path: path.norms)
        found[f"{name}turn"] = curve(
            f"cosine of {part} with its last value", "step", part, lambda path: path.cosine_to_final
        )
    for k in settings["spans"]:
        found[f"local-cosine-{k}"] = curve(
            f"local cosine of B, {k} checkpoints each way",
            "peak",
            "B",
            lambda path, k=k: path.local_cosine(k, settings["shortest_leg"]),  # type: ignore[misc]
        )
    return found
