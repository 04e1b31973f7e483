"""Who carries out heavy work, as commands ask for it. None of it changes what comes out, so none of it is hashed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from emscope.checks import at_least
from emscope.errors import UserError
from emscope.executors.tasks import carried_out_by

ROWS_PER_SHARD = 1152
"""Six batches of 192: large enough that a model's loading is little beside it."""


@dataclass(frozen=True)
class ExecutorSettings:
    """Who does the heavy work: it changes how long it takes, not what comes out.

    Attributes:
        executor: local (this process) or ray (workers of a Ray cluster).
        address: HOST:PORT of a Ray cluster that this machine is part of, or auto for the one that runs here; none
            starts workers on this machine and ends them afterwards.
        workers: workers side by side; 0 is one a GPU, or where there are none one a machine and at least two.
        cores: CPU cores of each worker; 0 shares out what the machine has.
    """

    executor: Literal["local", "ray"] = "local"
    address: str = ""
    workers: int = 0
    cores: int = 0

    def __post_init__(self) -> None:
        """Refuse numbers that make no sense, and settings of Ray where it is not asked for."""
        at_least(0, workers=self.workers, cores=self.cores)
        if self.executor == "local" and (self.address or self.workers or self.cores):
            raise UserError("An address, workers and cores are settings of Ray: choose the executor ray with them.")

    @contextmanager
    def in_force(self, folder: Path, *, device: str = "auto") -> Iterator[None]:
        """Let all tasks inside this context be carried out as asked; parts are written into `folder`.

        Args:
            folder: where the work's results go; every worker must see it.
            device: of the models, as asked for: cpu takes no GPUs.

        Raises:
            UserError: Ray cannot be had, or its workers cannot do this work.
        """
        if self.executor == "local":
            yield
            return
        from emscope.executors.ray_pool import RayPool

        with RayPool(self, folder, device=device) as pool, carried_out_by(pool):
            yield
