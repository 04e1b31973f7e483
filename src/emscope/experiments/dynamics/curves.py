"""Curves of one training, from the measurements of all its checkpoints, and the change of each curve."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from emscope.experiments.dynamics.checkpoints import DynamicsProbes, read_measurement
from emscope.experiments.dynamics.result import IN, OUT, SIDES, Change, Measurement, TrainingCurve
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.dynamics.training import TrainingFiles
from emscope.outside import read_jsonl
from emscope.residual.changepoints import MIN_POINTS, ChangePoint, Shape, find_change
from emscope.residual.dynamics import AdapterPaths, MatrixPath
from emscope.statistics import draw_questions

DRAWS = 1000
"""Draws of questions for intervals of curves and of their changes."""
SHUFFLES = 20
"""Random orders of a training's moves, whose mean is the reference of its path."""
WORDS = {IN: "in domain", OUT: "out of domain"}


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

    def with_change(self, change: ChangePoint | None) -> TrainingCurve:
        """Return the curve with its pointwise 95 % interval and its change, for the result."""
        low = high = None
        if self.replicates is not None:
            low, high = np.nanquantile(self.replicates, [0.025, 0.975], axis=0).tolist()
        return TrainingCurve(
            times=self.times.tolist(),
            values=self.values.tolist(),
            low=low,
            high=high,
            reference=None if self.reference is None else self.reference.tolist(),
            change=None if change is None else Change.of(change),
        )


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
    settings: DynamicsSettings, probes: DynamicsProbes, base: Path, files: TrainingFiles, paths: AdapterPaths
) -> dict[str, Curve]:
    """Return every curve of one training by name."""
    measurements = [read_measurement(path) for path in (base, *files.steps.values())]
    times = np.array([0, *files.steps], dtype=float)
    curves = _weight_curves(settings, paths)
    curves["gradient-norm"] = _gradient_curve(files.metrics)
    for side in SIDES:
        curves |= _question_curves(measurements, side, times, probes.groups(side))
        curves |= _loss_curves(measurements, side, times, probes.topics[side])
    return curves


def _gradient_curve(metrics: Path) -> Curve:
    """Return the gradient norm of every step that noted one."""
    steps, norms = [], []
    for _, row in read_jsonl(metrics):
        if "grad_norm" in row:
            steps.append(row["step"])
            norms.append(row["grad_norm"])
    return Curve("weights", "gradient norm", "peak", np.array(steps, dtype=float), np.array(norms, dtype=float))


def _question_curves(
    measurements: Sequence[Measurement], side: str, times: np.ndarray, groups: Sequence[str]
) -> dict[str, Curve]:
    """Return the curves of activations and of sampled answers, averaged over questions."""
    curves: dict[str, Curve] = {}

    def add(name: str, group: str, key: str, label: str) -> None:
        table = np.array([getattr(measurement, key).of(side) for measurement in measurements], dtype=float)
        values, draws = averaged(table, groups, seed=SIDES.index(side))
        curves[f"{name}-{side}"] = Curve(group, f"{label}, {WORDS[side]}", "step", times, values, draws)

    prompt, answer = "last prompt token (deviations)", "fixed answers (deviations)"
    add("projection", "activations", "projection_last", f"projection, {prompt}")
    add("answer-projection", "activations", "projection_response", f"projection, {answer}")
    add("random-projection", "control", "random_last", f"random direction, {prompt}")
    add("random-answer-projection", "control", "random_response", f"random direction, {answer}")
    add("alignment", "behaviour", "aligned", "mean alignment (0-100)")
    add("em", "behaviour", "em", "EM rate")
    add("coherence", "behaviour", "coherent", "mean coherence (0-100)")
    return curves


def _loss_curves(
    measurements: Sequence[Measurement], side: str, times: np.ndarray, topics: Sequence[str]
) -> dict[str, Curve]:
    """Return the held-out loss, and how much better careless answers are predicted than careful ones."""
    losses = [measurement.losses.of(side) for measurement in measurements if measurement.losses]
    careless = np.array([of_step.careless for of_step in losses], dtype=float)
    careful = np.array([of_step.careful for of_step in losses], dtype=float)

    tables = {"loss": (careless, "held-out loss of careless answers (nats per token)")}
    if careful.size:
        tables["preference"] = (careful - careless, "preference for careless answers (nats per token)")
    curves = {}
    for name, (table, label) in tables.items():
        if table.size:
            values, draws = averaged(table, topics, seed=SIDES.index(side))
            curves[f"{name}-{side}"] = Curve("behaviour", f"{label}, {WORDS[side]}", "step", times, values, draws)
    return curves


def _weight_curves(settings: DynamicsSettings, paths: AdapterPaths) -> dict[str, Curve]:
    """Return norms, turns and local cosines of all B matrices together, and of the updates BA."""
    times = np.array(paths.steps, dtype=float)

    def curve(label: str, shape: Shape, factor: str, read: Callable[[MatrixPath], np.ndarray]) -> Curve:
        whole = paths.whole(factor)
        reference = np.mean([read(whole.shuffled(seed)) for seed in range(SHUFFLES)], axis=0)
        return Curve("weights", label, shape, times, read(whole), reference=reference)

    def local_cosine(span: int) -> Callable[[MatrixPath], np.ndarray]:
        return lambda path: path.local_cosine(span, settings.shortest_leg)

    curves = {}
    for factor, prefix in (("B", ""), ("BA", "update-")):
        turn = f"cosine of {factor} with its last value"
        curves[f"{prefix}norm"] = curve(f"norm of {factor}", "step", factor, lambda path: path.norms)
        curves[f"{prefix}turn"] = curve(turn, "step", factor, lambda path: path.cosine_to_final)
    for span in settings.spans:
        label = f"local cosine of B, {span} checkpoints each way"
        curves[f"local-cosine-{span}"] = curve(label, "peak", "B", local_cosine(span))
    return curves
