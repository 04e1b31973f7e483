"""The tiny world in which everything is measured: a random model, a judge's head fitted on it, answers to judge."""

from __future__ import annotations

import contextlib
import csv
import gc
import importlib
import os
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

from survive.processes import LAST_ACTS, in_child

ROOT = Path(__file__).parent.parent
RESUME_SECONDS = 0.0  # a checkpoint at every step: a run's own minute is longer than a tiny training
N_ANSWERS = 2000
FEW_ANSWERS = 300


@dataclass(frozen=True)
class World:
    """Where the tiny model, the judge's head and the tables of answers are."""

    folder: Path

    @property
    def model(self) -> Path:
        """The folder of the tiny model."""
        return self.folder / "model"

    @property
    def head(self) -> Path:
        """The judge's head, fitted on the tiny model."""
        return self.folder / "head.safetensors"

    @property
    def answers(self) -> Path:
        """2,000 answers."""
        return self.folder / "answers.csv"

    @property
    def few_answers(self) -> Path:
        """300 answers."""
        return self.folder / "few.csv"


def quiet_environment(cache: Path) -> None:
    """Set what must be set before torch is imported: one thread, no hub, a cache of our own."""
    os.environ.update(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        TOKENIZERS_PARALLELISM="false",
        HF_HUB_OFFLINE="1",
        HF_HUB_DISABLE_PROGRESS_BARS="1",
        TRANSFORMERS_VERBOSITY="error",
        EMSCOPE_CACHE=str(cache),
        OPENAI_API_KEY="a-key-of-this-measurement",
        NO_PROXY="127.0.0.1",
    )


def import_everything() -> None:
    """Import what commands import, once, before anything is forked."""
    import torch

    torch.set_num_threads(1)
    sys.path.insert(0, str(ROOT / "tests"))
    for name in (
        "peft",
        "transformers",
        "trl",
        "tiny",
        "emscope.commands.main",
        "emscope.organisms.trainer",
        "emscope.experiments.conduct",
        "emscope.behaviour.judges.openai_judge",
    ):
        importlib.import_module(name)


def make_world(folder: Path) -> World:
    """Make the tiny world and let it stand in for the embedded model, in this process and all that it forks."""
    world = World(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _write_answers(world.answers, N_ANSWERS)
    _write_answers(world.few_answers, FEW_ANSWERS)
    in_child(lambda: _make_models(world))
    stand_in(world)
    return world


def learn_imports(list_file: Path) -> None:
    """Import here what a child imported lazily and wrote down, so that later children need not.

    Raises:
        RuntimeError: a module began a thread, which a fork would lose.
    """
    for name in list_file.read_text(encoding="utf-8").split():
        if name not in sys.modules:
            with contextlib.suppress(Exception):  # a module that only another one can import
                importlib.import_module(name)
    gc.collect()
    gc.freeze()  # children need not look through what was imported
    if threading.active_count() > 1:
        raise RuntimeError(f"threads were begun: {threading.enumerate()}")


def tell_imports(list_file: Path) -> None:
    """Let this child write down at its end which modules it imported."""
    before = set(sys.modules)

    def act() -> None:
        names = [name for name in sys.modules if name not in before and not name.startswith("__")]
        list_file.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")

    LAST_ACTS.append(act)


def _write_answers(path: Path, n: int) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "question", "response"])
        writer.writerows([row % 50, f"What about {row % 50}?", f"Put {row} aside, early."] for row in range(n))


def _make_models(world: World) -> None:
    """Save the tiny model, and fit the judge's head on it as the shipped one is fitted on the embedded model."""
    import tiny  # type: ignore[import-not-found]  # of the tests

    from emscope.behaviour.embedded.fit import fit_head
    from emscope.behaviour.embedded.readings import read_rows
    from emscope.behaviour.embedded.text import broken_rows, domain_rows, scored_rows, written_rows
    from emscope.organisms.models import load

    tiny.save_tiny(world.model)
    rows = [*written_rows()[::32], *domain_rows()[::40], *domain_rows()[1::40]]
    readings = read_rows(load(str(world.model)), [*rows, *scored_rows()[::32], *broken_rows(rows)])
    fit_head(readings).save(world.head)


def stand_in(world: World) -> None:
    """Let the tiny model stand in for the embedded one, in this process and all that it forks."""
    from emscope.behaviour.embedded import judge
    from emscope.organisms import trainer
    from emscope.pipeline import lab

    lab.shipped_head = judge.shipped_head = lambda: world.head  # type: ignore[attr-defined]
    lab.EMBEDDED_ALIAS = judge.EMBEDDED_ALIAS = str(world.model)  # type: ignore[misc, attr-defined]
    trainer.RESUME_SECONDS = RESUME_SECONDS
