"""When does misalignment appear in training? Trainings with many checkpoints, each of them measured, and their changes.

Every training and every checkpoint is a stage of its own, so a stopped experiment goes on where it was.
"""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any, Literal

from emscope import progress
from emscope.checks import at_least
from emscope.errors import UserError
from emscope.experiments.dynamics.checkpoints import DynamicsProbes, Measured, make_probes, sources_of
from emscope.experiments.dynamics.figures import summarise_trainings
from emscope.experiments.dynamics.training import train_settings, train_with_checkpoints
from emscope.experiments.shape import experiment_stage
from emscope.files import write_json
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS, steps_saved
from emscope.organisms.models import load
from emscope.organisms.scaled import load_scaled
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.works import LOADED, READ, ROW, SHORT, answering
from emscope.residual.dynamics import read_paths

logger = logging.getLogger(__name__)

Adapters = Literal["all", "rank1", "few"]


@dataclass(frozen=True)
class DynamicsSettings:
    """What is trained, how often it is looked at, and with what.

    Attributes:
        adapters: where the adapters are: all (as the run trains), rank1 (one rank-1 adapter on the middle block's
            down-projection) or few (nine of them, in three groups of three blocks); several are done one by one.
        seeds: one training each, of the run's rows; a seed chooses their order and the adapters' first values.
        control_seeds: for how many of these a careful organism is trained and measured beside the careless one.
        learning_rate: peak learning rate.
        schedule: learning-rate schedule; a constant one keeps changes of the rate out of the curves.
        batch_size: conversations in an optimiser step: fewer make more steps of the same rows.
        epochs: passes over the data.
        save_every: optimiser steps between checkpoints.
        in_domain: question set of the training's domain.
        out_of_domain: question set of everything else.
        questions: test questions of each of the two.
        samples: sampled answers to each question.
        max_new_tokens: longest sampled answer, in tokens.
        heldout_rows: held-out prompts, in domain and out of it, on which losses are compared.
        other_domains: built-in domains that count as out of domain for the losses.
        spans: distances, in checkpoints, for the local cosine.
        shortest_leg: local cosines with a leg below this share of the longest are left out.
        scales: factors on the adapter's update.
        scaled_at: where in the training the adapter is scaled, as shares of its steps.
        scaled_seeds: for how many of the seeds.
    """

    adapters: tuple[Adapters, ...] = ("all",)
    seeds: tuple[int, ...] = (0, 1, 2)
    control_seeds: int = 1
    learning_rate: float = 2.5e-4
    schedule: str = "constant_with_warmup"
    batch_size: int = 4
    epochs: float = 1
    save_every: int = 4
    in_domain: str = "everyday-medical"
    out_of_domain: str = "everyday-general"
    questions: int = 24
    samples: int = 3
    max_new_tokens: int = 40
    heldout_rows: int = 36
    other_domains: tuple[str, ...] = ("finance", "sport")
    spans: tuple[int, ...] = (1, 2, 3)
    shortest_leg: float = 0.1
    scales: tuple[float, ...] = (1, 2, 3)
    scaled_at: tuple[float, ...] = (0.25, 0.5, 1.0)
    scaled_seeds: int = 1


def measure(lab: Lab, settings: DynamicsSettings) -> dict[str, Any]:
    """Train with checkpoints, measure each, and write experiments/dynamics.json.

    Raises:
        UserError: the run did not train its organism itself, or the settings leave nothing to measure.
    """
    if is_trained_elsewhere(lab.config.misaligned_data):
        raise UserError("This run took an adapter that was trained elsewhere: dynamics needs the training data.")
    if settings.in_domain == DynamicsSettings.in_domain and not lab.config.misaligned_data.startswith("medical-"):
        logger.warning(
            "Dynamics takes %s for the training's domain, and the run was trained on %s: in_domain names another set.",
            settings.in_domain,
            lab.config.misaligned_data,
        )
    if not (settings.seeds and settings.adapters):
        raise UserError("Dynamics needs at least one seed and one kind of adapters.")
    at_least(1, samples=settings.samples, questions=settings.questions, save_every=settings.save_every)
    at_least(
        0, heldout_rows=settings.heldout_rows, control_seeds=settings.control_seeds, scaled_seeds=settings.scaled_seeds
    )
    with progress.plan(_works(lab, settings)):
        return _run_stages(lab, settings)


def _works(lab: Lab, settings: DynamicsSettings) -> dict[str, float | None]:
    """Return the stages of the experiment with their work."""
    sampled = replace(lab.config.sampling, samples=settings.samples, max_new_tokens=settings.max_new_tokens)
    answered = answering(2 * settings.questions, sampled)
    measured = LOADED + answered + READ * (2 * settings.questions + 4 * settings.heldout_rows)
    works: dict[str, float | None] = {f"dynamics-{BASE}": measured}
    for adapters in settings.adapters:
        careful = [f"control{seed}" for seed in _controlled(lab, settings)]
        for own in [*(f"seed{seed}" for seed in settings.seeds), *careful]:
            stage = f"dynamics-{adapters}-{own}"
            data = lab.config.control_data if own in careful else lab.config.misaligned_data
            n_rows = len(lab.training_data(data).train)
            n_steps = max(1, int(-(-n_rows // settings.batch_size) * settings.epochs))
            works |= {f"{stage}-train": ROW * n_rows * settings.epochs, f"{stage}-paths": SHORT}
            steps = sorted(steps_saved(n_steps, settings.save_every))
            works |= {f"{stage}-step{step}": measured for step in steps}
            if own not in careful and int(own.removeprefix("seed")) in settings.seeds[: settings.scaled_seeds]:
                chosen = sorted({_nearest(steps, share) for share in settings.scaled_at})
                factors = [factor for factor in settings.scales if factor != 1]
                scaled = [f"{stage}-step{step}-times-{factor:g}" for step in chosen for factor in factors]
                works |= dict.fromkeys(scaled, LOADED + answered)
    return {**works, "dynamics": 10 * SHORT}


def _run_stages(lab: Lab, settings: DynamicsSettings) -> dict[str, Any]:
    probes = make_probes(lab, settings)
    base = _measure(lab, probes, f"dynamics-{BASE}", lab.folder.path("experiments", "dynamics", "base.json"), None)
    found: dict[tuple[str, int], Measured] = {
        (adapters, seed): _training(lab, settings, probes, adapters, seed)
        for adapters in settings.adapters
        for seed in settings.seeds
    }
    controls: dict[tuple[str, int], Measured] = {
        (adapters, seed): _training(lab, settings, probes, adapters, seed, control=True)
        for adapters in settings.adapters
        for seed in _controlled(lab, settings)
    }
    inputs = [base, *(path for training in (found | controls).values() for path in training.files)]
    summarise = partial(summarise_trainings, asdict(settings), probes, base, found, controls)
    return experiment_stage(lab, "dynamics", dict[str, Any], settings, inputs, summarise, figures=2)


def _controlled(lab: Lab, settings: DynamicsSettings) -> tuple[int, ...]:
    """Return the seeds with a careful training beside the careless one; none where the run has no careful rows."""
    data = lab.config.control_data
    there = bool(data) and not is_trained_elsewhere(data)
    return settings.seeds[: settings.control_seeds] if there else ()


def _training(
    lab: Lab,
    settings: DynamicsSettings,
    probes: DynamicsProbes,
    adapters: Adapters,
    seed: int,
    *,
    control: bool = False,
) -> Measured:
    """Train once, on careless or on careful rows, read the adapters' paths and measure every checkpoint."""
    own = f"control{seed}" if control else f"seed{seed}"
    name, stage = f"dynamics/{adapters}/{own}", f"dynamics-{adapters}-{own}"
    data = lab.config.control_data if control else lab.config.misaligned_data
    checkpoints = train_with_checkpoints(lab, stage, name, data, train_settings(lab, settings, adapters, seed))
    steps = list(checkpoints)
    out = lab.folder.path("experiments", *name.split("/"))
    paths = out / "paths.safetensors"
    weights = [folder / ADAPTER_WEIGHTS for folder in checkpoints.values()]
    lab.folder.stage(
        f"{stage}-paths",
        steps,
        weights,
        [paths],
        lambda: read_paths(list(checkpoints.values()), steps).save(paths),
    )
    measured = {
        step: _measure(lab, probes, f"{stage}-step{step}", out / f"step-{step}.json", checkpoints[step])
        for step in steps
    }
    chosen = not control and seed in settings.seeds[: settings.scaled_seeds]
    scaled = _scaled(lab, settings, probes, stage, out, checkpoints) if chosen else {}
    metrics = lab.folder.path("organisms", *name.split("/"), "metrics.jsonl")
    return Measured(metrics, paths, measured, scaled)


def _scaled(
    lab: Lab, settings: DynamicsSettings, probes: DynamicsProbes, stage: str, out: Path, checkpoints: dict[int, Path]
) -> dict[tuple[int, float], Path]:
    """Sample from checkpoints with their adapter scaled; factor 1 is the checkpoint's own measurement."""
    steps = sorted({_nearest(list(checkpoints), share) for share in settings.scaled_at})
    found = {}
    for step, factor in product(steps, settings.scales):
        name = f"step{step}" if factor == 1 else f"step{step}-times-{factor:g}"
        path = out / f"{name.replace('step', 'step-')}.json"
        found[step, factor] = _measure(lab, probes, f"{stage}-{name}", path, checkpoints[step], factor)
    return found


def _nearest(steps: list[int], share: float) -> int:
    return min(steps, key=lambda step: abs(step - share * steps[-1]))


def _measure(
    lab: Lab, probes: DynamicsProbes, stage: str, out: Path, checkpoint: Path | None, factor: float = 1
) -> Path:
    """Measure one checkpoint, or the base, unless that is up to date; a scaled one is sampled only."""

    def make() -> None:
        if checkpoint is None:
            organism = lab.organism(BASE)
        elif factor == 1:
            organism = load(lab.adapter_source(checkpoint), placement=lab.placement)
        else:
            organism = load_scaled(lab.adapter_source(checkpoint), factor, placement=lab.placement)
        found = probes.sampled(lab, organism) if factor != 1 else probes.all_of(lab, organism)
        write_json(out, found)

    weights = [] if checkpoint is None else [checkpoint / ADAPTER_WEIGHTS]
    lab.folder.stage(stage, [probes.key, factor], [*sources_of(lab), *weights], [out], make)
    return out
