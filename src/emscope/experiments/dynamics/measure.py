"""Dynamics: trainings with many checkpoints, each of them measured, and the changes along them.

Every training and every checkpoint is a stage of its own, so a stopped experiment goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

from emscope import progress
from emscope.errors import UserError
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values, together
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
from emscope.experiments.openings import OpenRun, held_by, judging_anywhere
from emscope.experiments.shape import experiment_stage
from emscope.files import write_json
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS, steps_saved
from emscope.organisms.models import Organism, load
from emscope.organisms.scaled import load_scaled
from emscope.organisms.settings import TrainSettings
from emscope.parts import Part
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
        probes = Probing.of(lab, settings)
        base = lab.folder.path("experiments", "dynamics", "base.json")
        _measure_stage(lab, probes, f"dynamics-{BASE}", base, None)

        works, trainings = [], trainings_of(lab, settings)
        for training in trainings:
            train = train_settings(lab, settings, training.adapters, training.seed)
            works.append(partial(_train_and_measure, lab, settings, probes, training, train))
        files = dict(zip(trainings, together(works), strict=True))

        inputs = [base]
        for left in files.values():
            inputs += left.files
        summarise = partial(summarise_trainings, settings, probes.probes, base, files)
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
    lab: Lab, settings: DynamicsSettings, probes: Probing, training: Training, train: TrainSettings
) -> TrainingFiles:
    """Train once, read the adapters' paths, and measure every checkpoint."""
    checkpoints = train_with_checkpoints(lab, training, train)
    steps, folder = list(checkpoints), training.measurements(lab)

    paths = folder / "paths.safetensors"
    weights = [checkpoint / ADAPTER_WEIGHTS for checkpoint in checkpoints.values()]

    def read() -> None:
        read_paths(list(checkpoints.values()), steps).save(paths)

    lab.folder.stage(f"{training.stage}-paths", steps, weights, [paths], read)

    at_steps, scaled = {}, {}
    stages = []
    for step, checkpoint in checkpoints.items():
        at_steps[step] = folder / f"step-{step}.json"
        stages.append(partial(_measure_stage, lab, probes, f"{training.stage}-step{step}", at_steps[step], checkpoint))
    for step, factor in _scalings(settings, training, steps):
        name = _scaled_name(step, factor)
        out = scaled[step, factor] = folder / f"{name.replace('step', 'step-')}.json"
        stages.append(partial(_measure_stage, lab, probes, f"{training.stage}-{name}", out, checkpoints[step], factor))
    together(stages)
    return TrainingFiles(training.organism(lab) / "metrics.jsonl", paths, at_steps, scaled)


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


@dataclass(frozen=True)
class ProbesNeed:
    """What checkpoints are measured with, as each process that measures some needs it once."""

    run: OpenRun
    settings: DynamicsSettings

    def make(self) -> DynamicsProbes:
        """Choose it from the run's folder."""
        return make_probes(self.run.make(), self.settings)

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say that there is room: it holds texts and a few vectors."""
        return False


@dataclass(frozen=True)
class Probing:
    """What checkpoints are measured with, here and in workers."""

    need: ProbesNeed
    probes: DynamicsProbes

    @classmethod
    def of(cls, lab: Lab, settings: DynamicsSettings) -> Probing:
        """Choose it from a run."""
        return cls(ProbesNeed(OpenRun.of(lab), settings), make_probes(lab, settings))

    def held(self, lab: Lab) -> Held:
        """Return what tasks find of it in this process."""
        held = held_by(lab)
        held.put(self.need, self.probes)
        return held


@dataclass(frozen=True)
class CheckpointWork:
    """A checkpoint to measure; '' for the base.

    Attributes:
        probes: what it is measured with.
        checkpoint: its folder.
        factor: what its adapter is scaled by; scaled by another than 1 it is sampled only.
    """

    probes: ProbesNeed
    checkpoint: str
    factor: float


def measured(work: CheckpointWork, held: Held) -> Part:
    """Return, as plain values, where it was computed and what a checkpoint was measured at."""
    lab, probes = held.get(work.probes.run), held.get(work.probes)
    organism = _organism(lab, Path(work.checkpoint) if work.checkpoint else None, work.factor)
    found = probes.all_of(lab, organism) if work.factor == 1 else probes.sampled(lab, organism)
    return Part([lab.placement.told, plain(found)], rows=1)


def _measure_stage(
    lab: Lab, probes: Probing, stage: str, out: Path, checkpoint: Path | None, factor: float = 1
) -> None:
    """Measure one checkpoint, or the base, unless that is up to date; a scaled one is sampled only."""

    def make() -> None:
        work = CheckpointWork(probes.need, "" if checkpoint is None else str(checkpoint.absolute()), factor)
        with judging_anywhere(lab):
            (found,) = joined_values(
                carried_out(Task(stage, measured, [Shard(work, rows=1)], "checkpoints"), probes.held(lab))
            )
        write_json(out, found)

    weights = [] if checkpoint is None else [checkpoint / ADAPTER_WEIGHTS]
    lab.folder.stage(stage, [probes.probes.key, factor], [*sources_of(lab), *weights], [out], make)


def _organism(lab: Lab, checkpoint: Path | None, factor: float) -> Organism:
    """Return the base, or a checkpoint with its adapter scaled."""
    if checkpoint is None:
        return lab.organism(BASE)
    source = lab.adapter_source(checkpoint)
    if factor == 1:
        return load(source, placement=lab.placement)
    return load_scaled(source, factor, placement=lab.placement)
