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
    Values,
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
    of_kind: dict[str, dict[Training, TrainingFiles]] = {}
    for training, left in files.items():
        of_kind.setdefault(training.adapters, {})[training] = left

    by_kind = {kind: _dynamics_of(settings, probes, base, left) for kind, left in of_kind.items()}
    return DynamicsResult(settings, QuestionIds(probes.ids(IN), probes.ids(OUT)), by_kind)


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
        of_seed, controls = _by_seed(careless, name), _by_seed(careful, name)
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


def _by_seed(curves: Mapping[int, Mapping[str, Curve]], name: str) -> dict[int, Curve]:
    """Return the curve of this name of every training."""
    return {seed: of_seed[name] for seed, of_seed in curves.items()}


def over_trainings_of(
    curves: Mapping[int, Curve], changes: Sequence[ChangePoint | None], controls: Mapping[int, Curve]
) -> CurveOverTrainings:
    """Return one quantity over trainings: curves by seed, their changes in that order, and those of careful ones."""
    trainings, at, draws, transitions = [], [], [], 0
    for curve, change in zip(curves.values(), changes, strict=True):
        trainings.append(curve.with_change(change))
        if change is not None and np.isfinite(change.at):
            at.append(change.at)
            draws.append(change.draws)
            transitions += change.transition

    first = next(iter(curves.values()))
    return CurveOverTrainings(
        group=first.group,
        label=first.label,
        shape=first.shape,
        trainings=trainings,
        controls=[curve.with_change(curve.change(seed)) for seed, curve in controls.items()],
        transitions=transitions,
        at=pool(at, draws),
        apart=_apart(curves, controls),
    )


def _apart(curves: Mapping[int, Curve], controls: Mapping[int, Curve]) -> Estimate | None:
    """Return how far careless trainings end from the careful ones of the same seeds, None where nothing was averaged.

    Interval: both ends of every pair take the same draw of questions, so it speaks for these trainings alone.
    """
    gaps, drawn = [], []
    for seed, careful in controls.items():
        careless = curves[seed]
        gaps.append(careless.values[-1] - careful.values[-1])
        if careless.replicates is not None and careful.replicates is not None:
            drawn.append(careless.replicates[:, -1] - careful.replicates[:, -1])
    if not drawn:
        return None
    low, high = np.nanquantile(np.mean(drawn, axis=0), [0.025, 0.975])
    return Estimate(float(np.mean(gaps)), float(low), float(high), len(drawn))


def order_of_changes(changes: Mapping[str, Sequence[ChangePoint | None]]) -> ChangeOrder:
    """Return the order of the changes that go the same way in every training; of peaks, if most trainings show them."""
    at, draws = {}, {}
    gradual, left_out = [], []
    for name in ORDERED:
        if name not in changes:
            continue
        points = list(filter(None, changes[name]))
        places, point_draws, ways, transitions = [], [], set(), 0
        for point in points:
            places.append(point.at)
            point_draws.append(point.draws)
            ways.add(float(np.sign(point.size)))
            transitions += point.transition
        clear, same_way = 2 * transitions > len(points), bool(np.isfinite(places).all()) and len(ways) == 1
        if len(points) < len(changes[name]) or not same_way or (name in PEAKS and not clear):
            left_out.append(name)
            continue
        at[name], draws[name] = places, point_draws
        if not clear:
            gradual.append(name)

    return ChangeOrder(
        events=sorted(at, key=lambda name: float(np.mean(at[name]))),
        gradual=gradual,
        left_out=left_out,
        pairs=order_of(at, draws),
    )


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
            questions, n_answers = probes.groups(side), len(measurement.em.of(side))
            groups = np.repeat(questions, n_answers // len(questions)).tolist()
            aligned = estimate_mean(_numbers(measurement.aligned, side), groups)
            coherent = estimate_mean(_numbers(measurement.coherent, side), groups)
            em = estimate_share(_numbers(measurement.em, side), groups)
            rows.append(ScaledAnswers(seed, step, factor, side, aligned, coherent, em))
    return rows


def _numbers(values: Values, side: str) -> list[float]:
    """Return the values of a side, NaN where unscored."""
    numbers: list[float] = np.array(values.of(side), dtype=float).tolist()
    return numbers
