"""Trainings of the dynamics: the run's rows with another schedule, and a checkpoint every few steps."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from emscope.errors import UserError
from emscope.experiments.dynamics.settings import Adapters, DynamicsSettings
from emscope.files import tree_sha256, value_sha256, write_text
from emscope.organisms.blocks import find_blocks
from emscope.organisms.checkpoints import ADAPTER_FILES, CHECKPOINTS, checkpoints_of, keep_adapters, steps_saved
from emscope.organisms.settings import TrainSettings
from emscope.outside import read_jsonl
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.training import train_resumably


@dataclass(frozen=True)
class Training:
    """One training of the experiment.

    Attributes:
        adapters: where its adapters are.
        seed: the order of its rows and its adapters' first values.
        careful: whether it reads the careful answers of the control.
    """

    adapters: Adapters
    seed: int
    careful: bool = False

    @property
    def label(self) -> str:
        """Its name among those of the same adapters, also that of its folders."""
        return f"control{self.seed}" if self.careful else f"seed{self.seed}"

    @property
    def stage(self) -> str:
        """What the names of its stages begin with."""
        return f"dynamics-{self.adapters}-{self.label}"

    def data(self, lab: Lab) -> str:
        """Return the name of what it trains on."""
        return lab.config.control_data if self.careful else lab.config.misaligned_data

    def organism(self, lab: Lab) -> Path:
        """Return the folder of its checkpoints and metrics."""
        return lab.folder.path("organisms", "dynamics", self.adapters, self.label)

    def measurements(self, lab: Lab) -> Path:
        """Return the folder of what its checkpoints were measured at."""
        return lab.folder.path("experiments", "dynamics", self.adapters, self.label)


@dataclass(frozen=True)
class TrainingFiles:
    """The files that one training left: metrics, paths, a measurement by step, and those of scaled adapters."""

    metrics: Path
    paths: Path
    steps: dict[int, Path]
    scaled: dict[tuple[int, float], Path]

    @property
    def files(self) -> list[Path]:
        """All of them."""
        return [self.metrics, self.paths, *self.steps.values(), *self.scaled.values()]


def trainings_of(lab: Lab, settings: DynamicsSettings) -> list[Training]:
    """Return all trainings, those on careless answers first; careful ones only where the run has careful rows."""
    data = lab.config.control_data
    controlled = settings.seeds[: settings.control_seeds] if data and not is_trained_elsewhere(data) else ()
    trainings = []
    for adapters in settings.adapters:
        trainings += [Training(adapters, seed) for seed in settings.seeds]
    for adapters in settings.adapters:
        trainings += [Training(adapters, seed, careful=True) for seed in controlled]
    return list(dict.fromkeys(trainings))


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

    blocks = set()
    for share in (1 / 3, 0.46, 0.58):
        centre = round(share * n_blocks)
        blocks |= {min(max(block, 0), n_blocks - 1) for block in (centre - 1, centre, centre + 1)}
    return replace(chosen, rank=1, alpha=32, targets=("down_proj",), blocks=tuple(sorted(blocks)))


def train_with_checkpoints(lab: Lab, training: Training, train: TrainSettings) -> dict[int, Path]:
    """Train and return the checkpoints' folders by optimiser step; of each only the adapter is kept.

    Raises:
        UserError: checkpoints of a training that has ended are gone.
    """
    folder, name = training.organism(lab), f"dynamics/{training.adapters}/{training.label}"
    data = replace(lab.training_data(training.data(lab)), heldout=[])
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

    lab.folder.stage(f"{training.stage}-train", settings, [], [folder / CHECKPOINTS, metrics], make)
    return checkpoints_of(folder)


def _left_sha256(folder: Path, key: str) -> str:
    """Return the hash of what a training of some settings left that is kept."""
    adapters = []
    for step, path in checkpoints_of(folder).items():
        adapters.append([step, *(tree_sha256(path / file) for file in ADAPTER_FILES)])
    return value_sha256([key, tree_sha256(folder / "metrics.jsonl"), adapters])
