"""The commands that are killed and disturbed, and what each needs and leaves."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from pathlib import Path

from survive.server import Served
from survive.world import World

RUN = "run"
"""The name of a run's folder inside the folder in which a command works."""


@dataclass(frozen=True)
class Setting:
    """One command that is disturbed.

    Attributes:
        name: what it is called.
        words: the command line; it is run in a folder of its own.
        needs: a folder that is copied into that folder first, or None.
        outputs: relative names of what it leaves.
        served: whether it asks the server on loopback.
        resume: what the command that goes on is given besides; where there is nothing to go on from, it is left out.
    """

    name: str
    words: tuple[str, ...]
    needs: Path | None = None
    outputs: tuple[str, ...] = (RUN,)
    served: bool = field(default=False, kw_only=True)
    resume: tuple[str, ...] = field(default=(), kw_only=True)

    def prepare(self, folder: Path) -> None:
        """Make the folder in which the command works, with what it needs."""
        folder.mkdir(parents=True)
        if self.needs is not None:
            shutil.copytree(self.needs, folder / RUN)

    def environment(self, server: Served | None, key: str) -> dict[str, str]:
        """Return the variables that tell the command about the server; each key is counted apart there."""
        if not self.served:
            return {}
        assert server is not None
        return {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": key}


def run_words(world: World, *more: str, preset: str = "quickstart") -> tuple[str, ...]:
    """Return the command line of a whole run on the tiny model."""
    sets = [
        f"model={world.model}",
        "question_sets=[cs2881]",
        "rows=12",
        "train.batch_size=2",
        "train.epochs=1",
        "sampling.max_new_tokens=8",
        "dev_questions=3",
        *more,
    ]
    return ("run", "--preset", preset, "--out", RUN, *(word for item in sets for word in ("--set", item)))


def settings(world: World, finished: Path) -> dict[str, Setting]:
    """Return every setting by name; `finished` is a finished run that experiments work on."""
    few = ("3", "--curve-questions", "3", "--kl-questions", "3", "--test-questions", "4")
    found = [
        Setting("run", run_words(world)),
        Setting(
            "bank",
            (
                "adapters",
                "bank",
                RUN,
                "--domains",
                "medical",
                "sport",
                "--recipes",
                "r4",
                "--seeds",
                "0",
                "--heldout-rows",
                "1",
                "--save-every",
                "4",
            ),
            finished,
        ),
        Setting(
            "steer",
            (
                "steer",
                RUN,
                "--blocks",
                "1",
                "--coefficients",
                "-1.0",
                "1.0",
                "--levels",
                "0.5",
                "--cap-widths",
                "1.0",
                "--dial-questions",
                *few,
            ),
            finished,
        ),
        Setting("sweep", ("sweep", "layers", RUN, "--permutations", "4"), finished),
        Setting("induce", ("induce", RUN), finished),
        Setting(
            "train",
            (
                "train",
                "--data",
                "medical-careless",
                "--out",
                "organism",
                "--model",
                str(world.model),
                "--rows",
                "12",
                "--batch-size",
                "2",
                "--save-every",
                "2",
            ),
            outputs=("organism",),
            resume=("--resume",),
        ),
        Setting(
            "judge-server",
            judge_words(world.answers, "openai:m"),
            outputs=("judged.parquet", "scores.sqlite"),
            served=True,
        ),
        Setting("judge-local", judge_words(world.few_answers, "embedded")[:-2], outputs=("judged.parquet",)),
    ]
    return {setting.name: setting for setting in found}


def judge_words(answers: Path, judge: str, out: str = "judged.parquet") -> tuple[str, ...]:
    """Return the command line that judges a table with a store of its own."""
    return ("judge", "--responses", str(answers), "--out", out, "--judge", judge, "--store", "scores.sqlite")
