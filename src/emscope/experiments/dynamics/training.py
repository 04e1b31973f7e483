"""The trainings of the dynamics: the run's rows with another schedule, and a checkpoint every few steps."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emscope.errors import UserError
from emscope.files import tree_sha256, value_sha256, write_text
from emscope.organisms.blocks import find_blocks
from emscope.organisms.checkpoints import ADAPTER_FILES, CHECKPOINTS, checkpoints_of, keep_adapters, steps_saved
from emscope.organisms.settings import TrainSettings
from emscope.outside import read_jsonl
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.training import train_resumably

if TYPE_CHECKING:
    from emscope.experiments.dynamics.measure import Adapters, DynamicsSettings


def train_settings(lab: Lab, settings: DynamicsSettings, adapters: Adapters, seed: int) -> TrainSettings:
    """Return the run's training settings with the experiment's schedule, checkpoints, seed and adapters.

    The two small kinds follow Turner et al. 2506.11613: rank 1 on down-projections, one at half depth, or nine in
    groups around a third, 0.46 and 0.58 of the depth; their alphas are chosen for small models.
    """
    chosen = replace(
        lab.config.train,
        learning_rate=settings.learning_rate,
        schedule=settings.schedule,
        epochs=settings.epochs,
        batch_size=settings.batch_size,
        save_every=settings.save_every,
        seed=seed,
    )
    if adapters == "all":
        return chosen
    n_blocks = len(find_blocks(lab.organism(BASE).model))
    if adapters == "rank1":
        return replace(chosen, rank=1, alpha=64, targets=("down_proj",), blocks=(n_blocks // 2,))
    centres = [round(share * n_blocks) for share in (1 / 3, 0.46, 0.58)]
    blocks = {min(max(centre + offset, 0), n_blocks - 1) for centre in centres for offset in (-1, 0, 1)}
    return replace(chosen, rank=1, alpha=32, targets=("down_proj",), blocks=tuple(sorted(blocks)))


def train_with_checkpoints(lab: Lab, stage: str, name: str, source: str, train: TrainSettings) -> dict[int, Path]:
    """Train on the data named `source` and return the checkpoints' folders by optimiser step; of each only the adapter.

    Raises:
        UserError: checkpoints of a training that has ended are gone.
    """
    folder = lab.folder.path("organisms", *name.split("/"))
    data = replace(lab.training_data(source), heldout=[])
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
    adapters = [
        [step, *(tree_sha256(path / file) for file in ADAPTER_FILES)] for step, path in checkpoints_of(folder).items()
    ]
    return value_sha256([key, tree_sha256(folder / "metrics.jsonl"), adapters])
