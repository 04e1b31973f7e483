"""From the curves of all trainings to the figures of experiments/dynamics.json: changes, order, control, paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from emscope.experiments.dynamics.checkpoints import SIDES, DynamicsProbes, Measured
from emscope.experiments.dynamics.curves import Curve, curves_of
from emscope.outside import read_json
from emscope.residual.changepoints import ChangePoint
from emscope.residual.dynamics import AdapterPaths
from emscope.residual.events import order_of, pool
from emscope.statistics import estimate_mean, estimate_share
from emscope.statistics.estimates import Estimate

ORDERED = (
    "turn",
    "gradient-norm",
    "projection-in",
    "projection-out",
    "answer-projection-in",
    "answer-projection-out",
    "preference-in",
    "preference-out",
    "alignment-in",
    "alignment-out",
    "em-in",
    "em-out",
)
"""Curves whose changes are put in order: weights, activations, and behaviour read in losses and in answers."""


PEAKS = ("gradient-norm",)


def summarise_trainings(
    settings: dict[str, Any],
    probes: DynamicsProbes,
    base: Path,
    trainings: Mapping[tuple[str, int], Measured],
    controls: Mapping[tuple[str, int], Measured],
) -> dict[str, Any]:
    """Return the figures of experiments/dynamics.json: by kind of adapters its curves, order, paths and scaling."""

    def of(measured: Mapping[tuple[str, int], Measured], kind: str) -> dict[int, Measured]:
        return {seed: own for (adapters, seed), own in measured.items() if adapters == kind}

    return {
        "settings": settings,
        "questions": {side: [question.id for question in probes.sides[side]] for side in SIDES},
        "adapters": {
            kind: _summarise(settings, probes, base, of(trainings, kind), of(controls, kind))
            for kind in dict.fromkeys(adapters for adapters, _ in trainings)
        },
    }


def _summarise(
    settings: dict[str, Any],
    probes: DynamicsProbes,
    base: Path,
    trainings: Mapping[int, Measured],
    controls: Mapping[int, Measured],
) -> dict[str, Any]:
    paths = {seed: AdapterPaths.load(own.paths) for seed, own in trainings.items()}
    curves = {seed: curves_of(settings, probes, base, own, paths[seed]) for seed, own in trainings.items()}
    careful = {
        seed: curves_of(settings, probes, base, own, AdapterPaths.load(own.paths)) for seed, own in controls.items()
    }
    names = list(next(iter(curves.values())))
    changes = {name: [own[name].change(seed) for seed, own in curves.items()] for name in names}
    by_seed = {name: {seed: own[name] for seed, own in careful.items()} for name in names}
    return {
        "seeds": list(trainings),
        "control_seeds": list(controls),
        "steps": list(next(iter(paths.values())).steps),
        "curves": {
            name: _curve_figures({seed: own[name] for seed, own in curves.items()}, changes[name], by_seed[name])
            for name in names
        },
        "order": _order(changes),
        "paths": {str(seed): _path_figures(own) for seed, own in paths.items()},
        "scaled": [row for seed, own in trainings.items() for row in _scaled_figures(seed, probes, own)],
    }


def _curve_figures(
    curves: Mapping[int, Curve], changes: Sequence[ChangePoint | None], controls: Mapping[int, Curve]
) -> dict[str, Any]:
    found = [change for change in changes if change is not None and np.isfinite(change.at)]
    pooled = pool([change.at for change in found], [change.draws for change in found])
    one = next(iter(curves.values()))
    return {
        "group": one.group,
        "label": one.label,
        "shape": one.shape,
        "trainings": [curve.as_dict(change) for curve, change in zip(curves.values(), changes, strict=True)],
        "controls": [curve.as_dict(curve.change(seed)) for seed, curve in controls.items()],
        "transitions": sum(change.transition for change in found),
        "at": pooled.as_dict(),
        "apart": _apart([(curves[seed], controls[seed]) for seed in controls]),
    }


def _apart(pairs: Sequence[tuple[Curve, Curve]]) -> dict[str, Any] | None:
    """Return how far careless trainings end from the careful ones of the same seeds, None where nothing was averaged.

    Interval: both ends of every pair take the same draw of questions, so it speaks for these trainings alone.
    """
    drawn = [
        careless.replicates[:, -1] - careful.replicates[:, -1]
        for careless, careful in pairs
        if careless.replicates is not None and careful.replicates is not None
    ]
    if not drawn:
        return None
    value = float(np.mean([careless.values[-1] - careful.values[-1] for careless, careful in pairs]))
    low, high = np.nanquantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return Estimate(value, float(low), float(high), len(drawn)).as_dict()


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
        "coordinates": coordinates.tolist(),
        "explained": shares.tolist(),
        "modules": list(paths.modules),
        "matrices": _rounded(matrices),
    }


def _rounded(value: Any) -> Any:
    """Return nested values with floats of four significant digits: thousands of them are shown as a picture only."""
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}")


def _scaled_figures(seed: int, probes: DynamicsProbes, training: Measured) -> list[dict[str, Any]]:
    rows = []
    for (step, factor), path in training.scaled.items():
        measured = read_json(path)
        for side in SIDES:
            questions = [question.group for question in probes.sides[side]]
            row: dict[str, Any] = {"seed": seed, "step": step, "factor": factor, "side": side}
            for key, estimate in (("aligned", estimate_mean), ("coherent", estimate_mean), ("em", estimate_share)):
                values = np.array(measured[key][side], dtype=float).tolist()
                groups = np.repeat(questions, len(values) // len(questions)).tolist()
                row[key] = estimate(values, groups).as_dict()
            rows.append(row)
    return rows
