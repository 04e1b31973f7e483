"""Dynamics: trainings with many checkpoints, each of them measured, and the changes along them.

Every training and every checkpoint is a stage of its own, so a stopped experiment goes on where it was.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from functools import partial
from itertools import product
from pathlib import Path

from emscope import progress
from emscope.errors import UserError
from emscope.experiments.dynamics.checkpoints import DynamicsProbes, make_probes, sources_of
from emscope.experiments.dynamics.result import DynamicsResult
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.dynamics.summary import summarise_trainings
from emscope.experiments.dynamics.training import (
    Training,
    TrainingFiles,
    train_settings,
    train_with_checkpoints,
    trainings_of,
)
from emscope.experiments.shape import experiment_stage
from emscope.files import write_json
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS, steps_saved
from emscope.organisms.models import Organism, load
from emscope.organisms.scaled import load_scaled
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.works import LOADED, READ, ROW, SHORT, answering
from emscope.plain import plain
from emscope.residual.dynamics import read_paths

logger = logging.getLogger(__name__)


def measure(lab: Lab, settings: DynamicsSettings) -> DynamicsResult:
    """Train with checkpoints, measure each, and write experiments/dynamics.json.

    Raises:
        UserError: the run did not train its organism itself, or its questions leave nothing to measure.
    """
    check_run(lab, settings)
    with progress.plan(_works(lab, settings)):
        probes = make_probes(lab, settings)
        base = lab.folder.path("experiments", "dynamics", "base.json")
        _measure_stage(lab, probes, f"dynamics-{BASE}", base, None)

        files: dict[Training, TrainingFiles] = {}
        for training in trainings_of(lab, settings):
            files[training] = _train_and_measure(lab, settings, probes, training)

        inputs = [base]
        for left in files.values():
            inputs += left.files
        summarise = partial(summarise_trainings, settings, probes, base, files)
        return experiment_stage(lab, "dynamics", DynamicsResult, settings, inputs, summarise, figures=2)


def check_run(lab: Lab, settings: DynamicsSettings) -> None:
    """Refuse a run without training data, and warn of questions that are not of its domain.

    Raises:
        UserError: the run took an adapter that was trained elsewhere.
    """
    data = lab.config.misaligned_data
    if is_trained_elsewhere(data):
        raise UserError("This run took an adapter that was trained elsewhere: dynamics needs the training data.")
    if settings.in_domain == DynamicsSettings.in_domain and not data.startswith("medical-"):
        logger.warning(
            "Dynamics takes %s for the training's domain, and the run was trained on %s: in_domain names another set.",
            settings.in_domain,
            data,
        )


def _works(lab: Lab, settings: DynamicsSettings) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    sampled = replace(lab.config.sampling, samples=settings.samples, max_new_tokens=settings.max_new_tokens)
    answered = answering(2 * settings.questions, sampled)
    measured = LOADED + answered + READ * (2 * settings.questions + 4 * settings.heldout_rows)

    works: dict[str, float | None] = {f"dynamics-{BASE}": measured}
    for training in trainings_of(lab, settings):
        n_rows = len(lab.training_data(training.data(lab)).train)
        n_steps = max(1, int(-(-n_rows // settings.batch_size) * settings.epochs))
        steps = sorted(steps_saved(n_steps, settings.save_every))
        works[f"{training.stage}-train"] = ROW * n_rows * settings.epochs
        works[f"{training.stage}-paths"] = SHORT
        for step in steps:
            works[f"{training.stage}-step{step}"] = measured
        for step, factor in _scalings(settings, training, steps):
            if factor != 1:
                works[f"{training.stage}-{_scaled_name(step, factor)}"] = LOADED + answered
    return {**works, "dynamics": 10 * SHORT, "report": SHORT}


def _train_and_measure(
    lab: Lab, settings: DynamicsSettings, probes: DynamicsProbes, training: Training
) -> TrainingFiles:
    """Train once, read the adapters' paths, and measure every checkpoint."""
    train = train_settings(lab, settings, training.adapters, training.seed)
    checkpoints = train_with_checkpoints(lab, training, train)
    steps, folder = list(checkpoints), training.measurements(lab)

    paths = folder / "paths.safetensors"
    weights = [checkpoint / ADAPTER_WEIGHTS for checkpoint in checkpoints.values()]

    def read() -> None:
        read_paths(list(checkpoints.values()), steps).save(paths)

    lab.folder.stage(f"{training.stage}-paths", steps, weights, [paths], read)

    measured, scaled = {}, {}
    for step, checkpoint in checkpoints.items():
        measured[step] = folder / f"step-{step}.json"
        _measure_stage(lab, probes, f"{training.stage}-step{step}", measured[step], checkpoint)
    for step, factor in _scalings(settings, training, steps):
        name = _scaled_name(step, factor)
        scaled[step, factor] = folder / f"{name.replace('step', 'step-')}.json"
        _measure_stage(lab, probes, f"{training.stage}-{name}", scaled[step, factor], checkpoints[step], factor)
    return TrainingFiles(training.organism(lab) / "metrics.jsonl", paths, measured, scaled)


def _scalings(settings: DynamicsSettings, training: Training, steps: list[int]) -> list[tuple[int, float]]:
    """Return the checkpoints of a training that are sampled with their adapter scaled, and by what."""
    if training.careful or training.seed not in settings.seeds[: settings.scaled_seeds]:
        return []
    nearest = set()
    for share in settings.scaled_at:
        nearest.add(min(steps, key=lambda step: abs(step - share * steps[-1])))
    return list(product(sorted(nearest), settings.scales))


def _scaled_name(step: int, factor: float) -> str:
    """Return the name of a scaled checkpoint; factor 1 is the checkpoint's measurement as it is."""
    return f"step{step}" if factor == 1 else f"step{step}-times-{factor:g}"


def _measure_stage(
    lab: Lab, probes: DynamicsProbes, stage: str, out: Path, checkpoint: Path | None, factor: float = 1
) -> None:
    """Measure one checkpoint, or the base, unless that is up to date; a scaled one is sampled only."""

    def make() -> None:
        organism = _organism(lab, checkpoint, factor)
        measurement = probes.all_of(lab, organism) if factor == 1 else probes.sampled(lab, organism)
        write_json(out, plain(measurement))

    weights = [] if checkpoint is None else [checkpoint / ADAPTER_WEIGHTS]
    lab.folder.stage(stage, [probes.key, factor], [*sources_of(lab), *weights], [out], make)


def _organism(lab: Lab, checkpoint: Path | None, factor: float) -> Organism:
    """Return the base, or a checkpoint with its adapter scaled."""
    if checkpoint is None:
        return lab.organism(BASE)
    source = lab.adapter_source(checkpoint)
    if factor == 1:
        return load(source, placement=lab.placement)
    return load_scaled(source, factor, placement=lab.placement)
