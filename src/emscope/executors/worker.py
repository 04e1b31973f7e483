"""A worker of a Ray cluster: it carries out one order after the other and keeps loaded models between them.

Whatever goes wrong inside an order comes back as a sentence: exceptions of other libraries need not survive pickling.
"""

from __future__ import annotations

import logging
import os
import socket
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import emscope
from emscope.errors import UserError
from emscope.executors.tasks import Held, Order, finished

MOST_SAID = 50
"""Log lines of one order that are passed on."""
USER, MEMORY, FAULT = "user", "memory", "fault"


@dataclass(frozen=True)
class Failure:
    """Why an order could not be carried out.

    Attributes:
        kind: user (its sentence is the user's), memory (too little of it) or fault (of emscope or a library).
        sentence: what was raised.
        trace: where.
    """

    kind: str
    sentence: str
    trace: str = ""


@dataclass(frozen=True)
class Manifest:
    """All that travels back from a worker: the part itself is in its file.

    Attributes:
        rows: rows of the part, 0 where there is none.
        seconds: what it took.
        said: log lines as (level, text).
        failure: what went wrong.
    """

    rows: int
    seconds: float
    said: list[tuple[int, str]] = field(default_factory=list)
    failure: Failure | None = None


@dataclass(frozen=True)
class WorkerFacts:
    """Who a worker is.

    Attributes:
        host: its machine.
        pid: its process.
        version: of emscope.
        sees_folder: whether it finds the driver's probe file.
    """

    host: str
    pid: int
    version: str
    sees_folder: bool


class RayWorker:
    """What runs in the process of a Ray actor."""

    def __init__(self, cores: int, probe: str) -> None:
        self._held, self._probe, self._said = Held(), Path(probe), _Said()
        _quieten(self._said)
        _use_cores(cores)

    def facts(self) -> WorkerFacts:
        """Return who it is."""
        return WorkerFacts(socket.gethostname(), os.getpid(), emscope.__version__, self._probe.is_file())

    def carry_out(self, order: Order) -> Manifest:
        """Carry out an order and return its manifest."""
        self._said.lines.clear()
        try:
            part = finished(order, self._held)
        except Exception as error:  # what a task may raise is anybody's
            return Manifest(0, 0.0, list(self._said.lines), failure_of(error))
        return Manifest(part.rows or 0, part.seconds, list(self._said.lines))


def failure_of(error: Exception) -> Failure:
    """Return an exception as what may travel."""
    trace = traceback.format_exc()
    if isinstance(error, UserError):
        return Failure(USER, str(error), trace)
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower():
        return Failure(MEMORY, str(error).partition("\n")[0], trace)
    return Failure(FAULT, f"{type(error).__name__}: {error}", trace)


class _Said(logging.Handler):
    """Keeps the log lines of an order."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[tuple[int, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        if len(self.lines) < MOST_SAID:
            self.lines.append((record.levelno, record.getMessage()))


def _quieten(said: logging.Handler) -> None:
    logger = logging.getLogger("emscope")
    logger.handlers[:] = [said]
    logger.setLevel(logging.INFO)
    logger.propagate = False
    for name, value in (
        ("TOKENIZERS_PARALLELISM", "false"),
        ("HF_HUB_DISABLE_PROGRESS_BARS", "1"),
        ("TRANSFORMERS_VERBOSITY", "error"),
    ):
        os.environ.setdefault(name, value)


def _use_cores(cores: int) -> None:
    import torch

    torch.set_num_threads(cores)
