"""A run as workers need it: opened by its folder in each process that does some of an experiment's work."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from emscope.executors.tasks import Held, Local, carried_out_by, executor
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder


@dataclass(frozen=True)
class OpenRun:
    """The lab of a run.

    Attributes:
        folder: the run's folder, which every worker sees.
        config: what the run is asked.
    """

    folder: str
    config: RunConfig = field(hash=False)

    @classmethod
    def of(cls, lab: Lab) -> OpenRun:
        """Return the need that a lab answers."""
        return cls(str(lab.folder.folder.absolute()), lab.config)

    def make(self) -> Lab:
        """Open the run; that writes nothing."""
        return Lab(self.config, RunFolder(Path(self.folder), self.config))

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say that models of other work have to go: a lab loads its own, and makes room among them."""
        return True


ALIKE = ("embedded", "mock")
"""Judges that keep no scores: each worker may have its own."""


def judging_anywhere(lab: Lab) -> AbstractContextManager[None]:
    """Let the executor in force carry out tasks that judge, or this process: one judge keeps its scores in one file."""
    return nullcontext() if lab.config.judge.kind in ALIKE else carried_out_by(Local())


def held_by(lab: Lab) -> Held:
    """Return what tasks of a run's experiments find in this process: the lab itself."""
    held = Held()
    held.put(OpenRun.of(lab), lab)
    return held


def side_by_side() -> bool:
    """Say whether the executor in force does several things at once."""
    return executor().at_once > 1
