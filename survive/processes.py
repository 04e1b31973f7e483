"""Commands run in forked children of a process that has everything imported: a run of a tiny model costs seconds.

The parent has one thread and never computes anything itself, so that a fork copies no lock that is held and no pool
of threads that is gone.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

Before = Callable[[Path], None]
"""What a child does to itself before the command, given the folder in which it works."""

LONGEST = 300.0
"""Seconds after which a child counts as stuck."""
STUCK = "stuck"
LOOK = 0.001  # seconds between two looks at a child


@dataclass(frozen=True)
class Ending:
    """How a command ended.

    Attributes:
        code: the exit code, or minus the number of the signal that ended it.
        seconds: from its start.
        printed: what it wrote to stdout.
        said: what it wrote to stderr.
    """

    code: int
    seconds: float
    printed: str
    said: str

    @property
    def last_line(self) -> str:
        """The last thing it said: what a user reads."""
        lines = [line for line in self.said.splitlines() if line.strip()]
        return lines[-1].strip() if lines else ""

    @property
    def killed(self) -> bool:
        """Whether SIGKILL, or the end of a file's allowed length, ended it."""
        return self.code in (-signal.SIGKILL, -signal.SIGXFSZ)


@dataclass
class Child:
    """A command that is running.

    Attributes:
        pid: its process, and the group of all that it starts.
        folder: where it works.
        began: the time of its start.
    """

    pid: int
    folder: Path
    began: float = field(default_factory=time.monotonic)
    _status: int | None = None

    def ended(self) -> bool:
        """Say whether it is over."""
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self._status = status if pid else None
        return self._status is not None

    def signal_at(self, seconds: float, number: int = signal.SIGKILL) -> bool:
        """Send a signal to its group so long after its start; False if it was over before."""
        while time.monotonic() - self.began < seconds:
            if self.ended():
                return False
            time.sleep(LOOK)
        if self.ended():
            return False
        self.send(number)
        return True

    def send(self, number: int) -> None:
        """Send a signal to its group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def wait(self, longest: float = LONGEST) -> Ending:
        """Wait for its end; one that does not come is brought about and said."""
        while not self.ended():
            if time.monotonic() - self.began > longest:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                return Ending(-signal.SIGKILL, longest, self._read("stdout"), f"{self._read('stderr')}\n{STUCK}\n")
            time.sleep(LOOK)
        assert self._status is not None
        code = os.waitstatus_to_exitcode(self._status)
        return Ending(code, time.monotonic() - self.began, self._read("stdout"), self._read("stderr"))

    def _read(self, name: str) -> str:
        path = _output(self.folder, self.pid, name)
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""  # killed before it had one


def start(
    words: Sequence[str],
    folder: Path,
    before: Before | None = None,
    environment: Mapping[str, str] | None = None,
    at: Path | None = None,
) -> Child:
    """Start a command line of emscope in a folder.

    Args:
        words: the command line, without the program.
        folder: where its outputs are kept; what it prints goes beside that folder.
        before: what the child does to itself first.
        environment: more variables of its environment.
        at: its working directory, where that is not `folder`.
    """
    began = time.monotonic()
    pid = os.fork()
    if pid:
        with contextlib.suppress(PermissionError, ProcessLookupError):
            os.setpgid(pid, pid)
        return Child(pid, folder, began)
    code = 3
    try:
        _settle(at or folder, folder, environment or {})
        if before is not None:
            before(folder)
        code = _command(words)
        _at_the_end()
    except BaseException as error:  # the child must never go on as its parent
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(
    words: Sequence[str],
    folder: Path,
    before: Before | None = None,
    environment: Mapping[str, str] | None = None,
    at: Path | None = None,
) -> Ending:
    """Run a command line of emscope in a folder to its end."""
    return start(words, folder, before, environment, at).wait()


LAST_ACTS: list[Callable[[], None]] = []
"""What a child does after its command: how it tells what it counted."""


def _at_the_end() -> None:
    for act in LAST_ACTS:
        act()


def _output(folder: Path, pid: int, name: str) -> Path:
    return folder.parent / f"{folder.name}.{pid}.{name}"


def _settle(place: Path, folder: Path, environment: Mapping[str, str]) -> None:
    """Make the child a process of its own: group, working directory, output, signals, chance."""
    with contextlib.suppress(PermissionError):
        os.setpgid(0, 0)
    os.chdir(place)
    for number, name in ((1, "stdout"), (2, "stderr")):
        handle = os.open(_output(folder, os.getpid(), name), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, number)
        os.close(handle)
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", closefd=False, buffering=1)  # noqa: SIM115
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    os.environ.update(environment)
    warnings.simplefilter("ignore")
    _shake()


def _shake() -> None:
    """Begin with other random states in every child: what depends on them differs, and is found.

    torch notices here that it was forked; left to two threads at once, that would fail.
    """
    import numpy
    import torch

    torch.set_num_threads(1)
    seed = int.from_bytes(os.urandom(4), "little")
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)


def _command(words: Sequence[str]) -> int:
    """Run the command line as the installed program does, and return its exit code."""
    from emscope.commands.main import main

    sys.argv = ["emscope", *words]
    try:
        main()
    except SystemExit as ending:
        return ending.code if isinstance(ending.code, int) else 0 if ending.code is None else 2
    return 0


def in_child(work: Callable[[], None]) -> None:
    """Do something in a forked child, so that the parent stays without threads.

    Raises:
        RuntimeError: it failed.
    """
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code:
            raise RuntimeError(f"{getattr(work, '__name__', work)} failed (exit {code})")
        return
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
