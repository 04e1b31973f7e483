"""The result of the dynamics from the curves of all trainings: changes, their order, controls and paths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from emscope.experiments.dynamics.checkpoints import DynamicsProbes, read_measurement
from emscope.experiments.dynamics.curves import Curve, curves_of
from emscope.experiments.dynamics.result import (
    IN,
    OUT,
    SIDES,
    AdapterPath,
    ChangeOrder,
    CurveOverTrainings,
    DynamicsResult,
    Matrices,
    MatrixCurves,
    QuestionIds,
    ScaledAnswers,
    TrainingDynamics,
)
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.dynamics.training import Training, TrainingFiles
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
"""Those of them that belong to the order only where most trainings show a transition."""


def summarise_trainings(
    settings: DynamicsSettings, probes: DynamicsProbes, base: Path, files: Mapping[Training, TrainingFiles]
) -> DynamicsResult:
    """Return the result: by kind of adapters its curves, order, paths and scaled adapters."""
    by_kind: dict[str, TrainingDynamics] = {}
    for kind in dict.fromkeys(settings.adapters):
        of_kind = {training: left for training, left in files.items() if training.adapters == kind}
        by_kind[kind] = _dynamics_of(settings, probes, base, of_kind)
    ids = {side: [question.id for question in probes.sides[side]] for side in SIDES}
    return DynamicsResult(settings, QuestionIds(ids[IN], ids[OUT]), by_kind)


def _dynamics_of(
    settings: DynamicsSettings, probes: DynamicsProbes, base: Path, files: Mapping[Training, TrainingFiles]
) -> TrainingDynamics:
    """Return the dynamics of all trainings with one kind of adapters."""
    careless: dict[int, dict[str, Curve]] = {}
    careful: dict[int, dict[str, Curve]] = {}
    adapter_paths: dict[int, AdapterPaths] = {}
    scaled: list[ScaledAnswers] = []
    for training, left in files.items():
        paths = AdapterPaths.load(left.paths)
        curves = curves_of(settings, probes, base, left, paths)
        if training.careful:
            careful[training.seed] = curves
        else:
            careless[training.seed], adapter_paths[training.seed] = curves, paths
            scaled += _scaled_answers(training.seed, probes, left)

    changes: dict[str, list[ChangePoint | None]] = {}
    over_trainings: dict[str, CurveOverTrainings] = {}
    for name in next(iter(careless.values())):
        of_seed = {seed: curves[name] for seed, curves in careless.items()}
        controls = {seed: curves[name] for seed, curves in careful.items()}
        changes[name] = [curve.change(seed) for seed, curve in of_seed.items()]
        over_trainings[name] = over_trainings_of(of_seed, changes[name], controls)

    return TrainingDynamics(
        seeds=list(careless),
        control_seeds=list(careful),
        steps=list(next(iter(adapter_paths.values())).steps),
        curves=over_trainings,
        order=order_of_changes(changes),
        paths={str(seed): _path_of(paths) for seed, paths in adapter_paths.items()},
        scaled=scaled,
    )


def over_trainings_of(
    curves: Mapping[int, Curve], changes: Sequence[ChangePoint | None], controls: Mapping[int, Curve]
) -> CurveOverTrainings:
    """Return one quantity over trainings: curves by seed, their changes in that order, and those of careful ones."""
    placed = [change for change in changes if change is not None and np.isfinite(change.at)]
    first = next(iter(curves.values()))
    trainings = [curve.with_change(change) for curve, change in zip(curves.values(), changes, strict=True)]
    return CurveOverTrainings(
        group=first.group,
        label=first.label,
        shape=first.shape,
        trainings=trainings,
        controls=[curve.with_change(curve.change(seed)) for seed, curve in controls.items()],
        transitions=sum(change.transition for change in placed),
        at=pool([change.at for change in placed], [change.draws for change in placed]),
        apart=_apart([(curves[seed], controls[seed]) for seed in controls]),
    )


def _apart(pairs: Sequence[tuple[Curve, Curve]]) -> Estimate | None:
    """Return how far careless trainings end from the careful ones of the same seeds, None where nothing was averaged.

    Interval: both ends of every pair take the same draw of questions, so it speaks for these trainings alone.
    """
    gaps, drawn = [], []
    for careless, careful in pairs:
        gaps.append(careless.values[-1] - careful.values[-1])
        if careless.replicates is not None and careful.replicates is not None:
            drawn.append(careless.replicates[:, -1] - careful.replicates[:, -1])
    if not drawn:
        return None
    low, high = np.nanquantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return Estimate(float(np.mean(gaps)), float(low), float(high), len(drawn))


def order_of_changes(changes: Mapping[str, Sequence[ChangePoint | None]]) -> ChangeOrder:
    """Return the order of the changes that go the same way in every training; of peaks, if most trainings show them."""
    clear, kept, left_out = set(), {}, []
    for name in ORDERED:
        if name not in changes:
            continue
        points = [change for change in changes[name] if change]
        if 2 * sum(point.transition for point in points) > len(points):
            clear.add(name)
        shared = len(points) == len(changes[name]) and _same_way(points)
        if shared and (name in clear or name not in PEAKS):
            kept[name] = points
        else:
            left_out.append(name)

    at = {name: [point.at for point in points] for name, points in kept.items()}
    draws = {name: [point.draws for point in points] for name, points in kept.items()}
    return ChangeOrder(
        events=sorted(at, key=lambda name: float(np.mean(at[name]))),
        gradual=[name for name in kept if name not in clear],
        left_out=left_out,
        pairs=order_of(at, draws),
    )


def _same_way(points: Sequence[ChangePoint]) -> bool:
    """Say whether all changes have a place and go up, or all go down."""
    places, directions = [point.at for point in points], np.sign([point.size for point in points])
    return bool(np.isfinite(places).all()) and len(set(directions.tolist())) == 1


def _path_of(paths: AdapterPaths) -> AdapterPath:
    """Return the principal components of B's path, and norm and turn of every adapter matrix."""
    coordinates, shares = paths.whole("B").principal_components()
    matrices = Matrices(_matrix_curves(paths, "A"), _matrix_curves(paths, "B"))
    return AdapterPath(coordinates.tolist(), shares.tolist(), list(paths.modules), matrices)


def _matrix_curves(paths: AdapterPaths, factor: str) -> MatrixCurves:
    """Return the curves of each module's matrix, rounded: thousands of them are shown as a picture only."""
    norms, turns, to_final = [], [], []
    for path in paths.of(factor):
        norms.append(_rounded(path.norms))
        turns.append(_rounded(path.cosine_to_previous))
        to_final.append(_rounded(path.cosine_to_final))
    return MatrixCurves(norms, turns, to_final)


def _rounded(values: np.ndarray) -> list[float]:
    """Return floats of four significant digits."""
    return [float(f"{value:.4g}") for value in values.tolist()]


def _scaled_answers(seed: int, probes: DynamicsProbes, files: TrainingFiles) -> list[ScaledAnswers]:
    rows = []
    for (step, factor), path in files.scaled.items():
        measurement = read_measurement(path)
        for side in SIDES:
            aligned, coherent, em = (
                np.array(values.of(side), dtype=float).tolist()
                for values in (measurement.aligned, measurement.coherent, measurement.em)
            )
            questions = probes.groups(side)
            groups = np.repeat(questions, len(aligned) // len(questions)).tolist()
            rows.append(
                ScaledAnswers(
                    seed,
                    step,
                    factor,
                    side,
                    estimate_mean(aligned, groups),
                    estimate_mean(coherent, groups),
                    estimate_share(em, groups),
                )
            )
    return rows
