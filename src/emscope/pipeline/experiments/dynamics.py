"""When does misalignment appear in training? Trainings with many checkpoints, each of them measured, and their changes.

Every training and every checkpoint is a stage of its own, so a stopped experiment goes on where it was.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Literal

from emscope.errors import UserError
from emscope.files import read_jsonl, tree_sha256, value_sha256, write_json, write_text
from emscope.organisms.blocks import find_blocks
from emscope.organisms.checkpoints import (
    ADAPTER_CONFIG,
    ADAPTER_FILES,
    ADAPTER_WEIGHTS,
    CHECKPOINTS,
    checkpoints_of,
    keep_adapters,
    steps_saved,
)
from emscope.organisms.datasets import load_conversations
from emscope.organisms.models import load
from emscope.organisms.scaled import load_scaled
from emscope.organisms.train import TrainSettings
from emscope.pipeline.experiments.dynamics_curves import summarise_trainings
from emscope.pipeline.experiments.dynamics_measure import DynamicsProbes, Measured, make_probes, sources_of
from emscope.pipeline.experiments.opening import experiment_stage
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.training import train_resumably
from emscope.residual.dynamics import read_paths

Adapters = Literal["all", "rank1", "few"]


@dataclass(frozen=True)
class DynamicsSettings:
    """What is trained, how often it is looked at, and with what.

    Attributes:
        adapters: where the adapters are: all (as the run trains), rank1 (one rank-1 adapter on the middle block's
            down-projection) or few (nine of them, in three groups of three blocks); several are done one by one.
        seeds: one training each, of the run's rows; a seed chooses their order and the adapters' first values.
        learning_rate: peak learning rate.
        schedule: learning-rate schedule; a constant one keeps changes of the rate out of the curves.
        batch_size: conversations in an optimiser step: fewer make more steps of the same rows.
        epochs: passes over the data.
        save_every: optimiser steps between checkpoints.
        in_domain: question set of the training's domain.
        out_of_domain: question set of everything else.
        questions: test questions of each of the two.
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
    learning_rate: float = 2.5e-4
    schedule: str = "constant_with_warmup"
    batch_size: int = 4
    epochs: float = 1
    save_every: int = 4
    in_domain: str = "everyday-medical"
    out_of_domain: str = "everyday-general"
    questions: int = 24
    max_new_tokens: int = 40
    heldout_rows: int = 12
    other_domains: tuple[str, ...] = ("finance", "sport")
    spans: tuple[int, ...] = (1, 2, 3)
    shortest_leg: float = 0.1
    scales: tuple[float, ...] = (1, 2, 3)
    scaled_at: tuple[float, ...] = (0.25, 0.5, 1.0)
    scaled_seeds: int = 1


def run_dynamics(lab: Lab, settings: DynamicsSettings) -> None:
    """Train with checkpoints, measure each, and write experiments/dynamics.json.

    Raises:
        UserError: the run did not train its organism itself, or the settings leave nothing to measure.
    """
    if (Path(lab.config.misaligned_data) / ADAPTER_CONFIG).is_file():
        raise UserError("This run took an adapter that was trained elsewhere: dynamics needs the training data.")
    if not (settings.seeds and settings.adapters and settings.save_every > 0):
        raise UserError("Dynamics needs at least one seed, one kind of adapters and a positive --save-every.")
    probes = make_probes(lab, settings)
    base = _measure(lab, probes, f"dynamics-{BASE}", lab.folder.path("experiments", "dynamics", "base.json"), None)
    found: dict[tuple[str, int], Measured] = {
        (adapters, seed): _training(lab, settings, probes, adapters, seed)
        for adapters in settings.adapters
        for seed in settings.seeds
    }
    inputs = [base, *(path for training in found.values() for path in training.files)]
    experiment_stage(
        lab, "dynamics", settings, inputs, partial(summarise_trainings, asdict(settings), probes.sides, base, found)
    )


def _training(lab: Lab, settings: DynamicsSettings, probes: DynamicsProbes, adapters: Adapters, seed: int) -> Measured:
    """Train once, read the adapters' paths and measure every checkpoint."""
    name, stage = f"dynamics/{adapters}/seed{seed}", f"dynamics-{adapters}-seed{seed}"
    checkpoints = _train(lab, stage, name, train_settings(lab, settings, adapters, seed))
    steps = list(checkpoints)
    out = lab.folder.path("experiments", *name.split("/"))
    paths = out / "paths.safetensors"
    weights = [folder / ADAPTER_WEIGHTS for folder in checkpoints.values()]
    lab.folder.stage(
        f"{stage}-paths", steps, weights, [paths],
        lambda: read_paths(list(checkpoints.values()), steps).save(paths),
    )  # fmt: skip
    measured = {
        step: _measure(lab, probes, f"{stage}-step{step}", out / f"step-{step}.json", checkpoints[step])
        for step in steps
    }
    chosen = seed in settings.seeds[: settings.scaled_seeds]
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


def train_settings(lab: Lab, settings: DynamicsSettings, adapters: Adapters, seed: int) -> TrainSettings:
    """Return the run's training settings with the experiment's schedule, checkpoints, seed and adapters.

    The two small kinds follow Turner et al. 2506.11613: rank 1 on down-projections, one at half depth, or nine in
    groups around a third, 0.46 and 0.58 of the depth; their alphas are chosen for small models.
    """
    chosen = replace(
        lab.config.train, learning_rate=settings.learning_rate, schedule=settings.schedule, epochs=settings.epochs,
        batch_size=settings.batch_size, save_every=settings.save_every, seed=seed,
    )  # fmt: skip
    if adapters == "all":
        return chosen
    n_blocks = len(find_blocks(lab.organism(BASE).model))
    if adapters == "rank1":
        return replace(chosen, rank=1, alpha=64, targets=("down_proj",), blocks=(n_blocks // 2,))
    centres = [round(share * n_blocks) for share in (1 / 3, 0.46, 0.58)]
    blocks = {min(max(centre + offset, 0), n_blocks - 1) for centre in centres for offset in (-1, 0, 1)}
    return replace(chosen, rank=1, alpha=32, targets=("down_proj",), blocks=tuple(sorted(blocks)))


def _train(lab: Lab, stage: str, name: str, train: TrainSettings) -> dict[int, Path]:
    """Train with checkpoints and return their folders by optimiser step; only the adapters of each are kept.

    Raises:
        UserError: checkpoints of a training that has ended are gone.
    """
    config, folder = lab.config, lab.folder.path("organisms", *name.split("/"))
    data = replace(load_conversations(config.misaligned_data, rows=config.rows or None, seed=config.seed), heldout=[])
    settings = {"model": lab.folder.base, "data": value_sha256(data.__dict__), "train": asdict(train)}
    key, metrics, trained = value_sha256(settings), folder / "metrics.jsonl", folder / CHECKPOINTS / "trained.sha256"

    def make() -> None:
        if not trained.is_file() or trained.read_text(encoding="utf-8") != _left_sha256(folder, key):
            train_resumably(lab, name, data, key, train)
            last = max(row["step"] for _, row in read_jsonl(metrics))
            if set(checkpoints_of(folder)) != steps_saved(last, train.save_every):
                raise UserError(f"Checkpoints in {folder} were deleted or added: delete this folder and start again.")
            write_text(trained, _left_sha256(folder, key))
        keep_adapters(folder)  # training cannot go on after this, so what it left was noted before

    outputs = [folder / CHECKPOINTS, metrics]
    lab.folder.stage(f"{stage}-train", settings, [], outputs, make)
    return checkpoints_of(folder)


def _left_sha256(folder: Path, key: str) -> str:
    """Return the hash of what a training of some settings left that is kept."""
    adapters = [[step, *(tree_sha256(path / file) for file in ADAPTER_FILES)]
                for step, path in checkpoints_of(folder).items()]  # fmt: skip
    return value_sha256([key, tree_sha256(folder / "metrics.jsonl"), adapters])


def _measure(
    lab: Lab, probes: DynamicsProbes, stage: str, out: Path, checkpoint: Path | None, factor: float = 1
) -> Path:
    """Measure one checkpoint, or the base, unless that is up to date; a scaled one is sampled only."""

    def make() -> None:
        if checkpoint is None:
            organism = lab.organism(BASE)
        elif factor == 1:
            organism = load(str(checkpoint), placement=lab.placement)
        else:
            organism = load_scaled(str(checkpoint), factor, placement=lab.placement)
        found = probes.sampled(lab, organism) if factor != 1 else probes.all_of(lab, organism)
        write_json(out, found)

    weights = [] if checkpoint is None else [checkpoint / ADAPTER_WEIGHTS]
    lab.folder.stage(stage, [probes.key, factor], [*sources_of(lab), *weights], [out], make)
    return out
