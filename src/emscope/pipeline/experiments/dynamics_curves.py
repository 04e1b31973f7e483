"""From the measurements of all checkpoints to curves, their changes, and the order of the changes over trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.statistics import draw_questions, estimate_mean, estimate_share
from emscope.files import read_json, read_jsonl
from emscope.pipeline.experiments.dynamics_measure import SIDES, Measured, table_of
from emscope.residual.changepoints import MIN_POINTS, ChangePoint, Shape, find_change
from emscope.residual.dynamics import AdapterPaths, MatrixPath
from emscope.residual.events import order_of, pool

DRAWS = 1000
SHUFFLES = 20
WORDS = {"in": "in domain", "out": "out of domain"}
ORDERED = ("turn", "gradient-norm", "projection-in", "projection-out", "answer-projection-in", "answer-projection-out",
           "preference-in", "preference-out", "alignment-in", "alignment-out", "em-in", "em-out")  # fmt: skip
"""Curves whose changes are put in order: weights, activations, and behaviour read in losses and in answers."""


PEAKS = ("gradient-norm",)


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
            "times": self.times.tolist(), "values": self.values.tolist(), "low": low, "high": high,
            "reference": None if self.reference is None else self.reference.tolist(),
            "change": None if change is None else change.as_dict(),
        }  # fmt: skip


def averaged(
    table: np.ndarray, groups: Sequence[str], seed: int
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Return the mean curve of values [n_times, n_rows], NaN for missing, and that of each draw of questions."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    counts = np.concatenate([np.ones((1, len(names))), draw_questions(len(names), seed, DRAWS)])[:, codes]
    there = np.isfinite(table)
    with np.errstate(invalid="ignore"):
        curves = (counts @ np.where(there, table, 0.0).T) / (counts @ there.T.astype(float))
    return curves[0], curves[1:]


def summarise_trainings(
    settings: dict[str, Any], sides: Mapping[str, Sequence[Question]], base: Path,
    trainings: Mapping[tuple[str, int], Measured],
) -> dict[str, Any]:  # fmt: skip
    """Return the figures of experiments/dynamics.json: by kind of adapters its curves, order, paths and scaling."""
    kinds = dict.fromkeys(adapters for adapters, _ in trainings)
    return {
        "settings": settings,
        "questions": {side: [question.id for question in sides[side]] for side in SIDES},
        "adapters": {
            kind: _summarise(
                settings, sides, base, {seed: own for (adapters, seed), own in trainings.items() if adapters == kind}
            )
            for kind in kinds
        },
    }


def _summarise(
    settings: dict[str, Any], sides: Mapping[str, Sequence[Question]], base: Path, trainings: dict[int, Measured]
) -> dict[str, Any]:
    paths = {seed: AdapterPaths.load(own.paths) for seed, own in trainings.items()}
    curves = {seed: curves_of(settings, sides, base, own, paths[seed]) for seed, own in trainings.items()}
    names = list(next(iter(curves.values())))
    changes = {name: [own[name].change(seed) for seed, own in curves.items()] for name in names}
    return {
        "seeds": list(trainings),
        "steps": list(next(iter(paths.values())).steps),
        "curves": {name: _curve_figures([own[name] for own in curves.values()], changes[name]) for name in names},
        "order": _order(changes),
        "paths": {str(seed): _path_figures(own) for seed, own in paths.items()},
        "scaled": [row for seed, own in trainings.items() for row in _scaled_figures(seed, sides, own)],
    }


def _curve_figures(curves: Sequence[Curve], changes: Sequence[ChangePoint | None]) -> dict[str, Any]:
    found = [change for change in changes if change is not None and np.isfinite(change.at)]
    pooled = pool([change.at for change in found], [change.draws for change in found])
    return {
        "group": curves[0].group, "label": curves[0].label, "shape": curves[0].shape,
        "trainings": [curve.as_dict(change) for curve, change in zip(curves, changes, strict=True)],
        "transitions": sum(change.transition for change in found),
        "at": pooled.as_dict(),
    }  # fmt: skip


def _order(changes: Mapping[str, Sequence[ChangePoint | None]]) -> dict[str, Any]:
    """Return the order of the changes that go the same way in every training; of peaks, if most trainings show them."""
    there = {name: [item for item in changes[name] if item] for name in ORDERED if name in changes}
    clear = {name for name, items in there.items() if 2 * sum(item.transition for item in items) > len(items)}
    kept = {
        name: items
        for name, items in there.items()
        if len(items) == len(changes[name]) and _same_way(items) and (name in clear or name not in PEAKS)
    }
    at = {name: [item.at for item in items] for name, items in kept.items()}
    pairs = order_of(at, {name: [item.draws for item in items] for name, items in kept.items()})
    return {
        "events": sorted(at, key=lambda name: float(np.mean(at[name]))),
        "gradual": [name for name in kept if name not in clear],
        "left_out": [name for name in there if name not in kept],
        "pairs": [pair.as_dict() for pair in pairs],
    }


def _same_way(items: Sequence[ChangePoint]) -> bool:
    return all(np.isfinite(item.at) for item in items) and len({np.sign(item.size) for item in items}) == 1


def curves_of(
    settings: dict[str, Any], sides: Mapping[str, Sequence[Question]], base: Path, training: Measured,
    paths: AdapterPaths,
) -> dict[str, Curve]:  # fmt: skip
    """Return every curve of one training by name."""
    measured = [read_json(base), *(read_json(path) for path in training.steps.values())]
    times = np.array([0, *training.steps], dtype=float)
    found = _weight_curves(settings, paths)
    rows = [row for _, row in read_jsonl(training.metrics) if "grad_norm" in row]
    found["gradient-norm"] = Curve(
        "weights", "gradient norm", "peak", np.array([row["step"] for row in rows], dtype=float),
        np.array([row["grad_norm"] for row in rows], dtype=float),
    )  # fmt: skip
    for side in SIDES:
        groups = [question.group for question in sides[side]]
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
        found |= _loss_curves(measured, side, times)
    return found


def _loss_curves(measured: Sequence[dict[str, Any]], side: str, times: np.ndarray) -> dict[str, Curve]:
    """Return the held-out loss, and how much better careless answers are predicted than careful ones."""
    losses = {
        kind: np.array([item["losses"][side][kind] for item in measured], dtype=float)
        for kind in ("careless", "careful")
    }
    groups = [str(number) for number in range(losses["careless"].shape[1])]
    tables = {"loss": (losses["careless"], "held-out loss of careless answers (nats per token)")}
    if losses["careful"].size:
        label = "preference for careless answers (nats per token)"
        tables["preference"] = (losses["careful"] - losses["careless"], label)
    found = {}
    for name, (table, label) in tables.items():
        if table.size:
            values, draws = averaged(table, groups, seed=SIDES.index(side))
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
            f"local cosine of B, {k} checkpoints each way", "peak", "B",
            lambda path, k=k: path.local_cosine(k, settings["shortest_leg"]),  # type: ignore[misc]
        )  # fmt: skip
    return found


def _path_figures(paths: AdapterPaths) -> dict[str, Any]:
    """Return the principal components of B's path, and norm and turn of every adapter matrix."""
    coordinates, shares = paths.whole("B").principal_components()
    matrices = {
        part: {
            "norm": [path.norms.tolist() for path in paths.of(part)],
            "cosine_to_previous": [path.cosine_to_previous.tolist() for path in paths.of(part)],
            "cosine_to_final": [path.cosine_to_final.tolist() for path in paths.of(part)],
        }
        for part in ("A", "B")
    }
    return {
        "coordinates": coordinates.tolist(), "explained": shares.tolist(), "modules": list(paths.modules),
        "matrices": _rounded(matrices),
    }  # fmt: skip


def _rounded(value: Any) -> Any:
    """Return nested values with floats of four significant digits: thousands of them are shown as a picture only."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}")


def _scaled_figures(seed: int, sides: Mapping[str, Sequence[Question]], training: Measured) -> list[dict[str, Any]]:
    rows = []
    for (step, factor), path in training.scaled.items():
        measured = read_json(path)
        for side in SIDES:
            groups = [question.group for question in sides[side]]
            row: dict[str, Any] = {"seed": seed, "step": step, "factor": factor, "side": side}
            for key, estimate in (("aligned", estimate_mean), ("coherent", estimate_mean), ("em", estimate_share)):
                values = np.array(measured[key][side], dtype=float).tolist()
                row[key] = estimate(values, groups).as_dict()
            rows.append(row)
    return rows
