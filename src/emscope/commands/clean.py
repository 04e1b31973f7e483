"""`emscope clean`: what a run's folder holds that nothing needs."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope.commands.common import GOES_ON
from emscope.commands.outcome import Outcome
from emscope.errors import UserError
from emscope.locking import is_locked
from emscope.pipeline.inventory import CONFIG, LeftOver, left_over


@dataclass(frozen=True)
class Clean:
    """List what no stage of a run needs, with its size; --yes removes it.

    These are half-written files of commands that were stopped, parts of stages that are finished, and checkpoints that
    only served to go on with a training that is finished. What no record names may be yours: it is listed, and removed
    only with --extra.

    Attributes:
        run: the run's folder.
        yes: remove what is listed.
        extra: remove also what no record names.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    yes: bool = False
    extra: bool = False

    def execute(self) -> Outcome:
        """List, and remove if that is asked for."""
        if not (self.run / CONFIG).is_file():
            raise UserError(f"{self.run} is no run: it has no {CONFIG}.")
        leftovers = left_over(self.run)
        chosen = [leftover for leftover in leftovers if leftover.known or self.extra]
        text = listing(self.run, leftovers)
        told: dict[str, Any] = {"left_over": [_told(leftover) for leftover in leftovers], "removed": []}
        if not chosen:
            return Outcome(text, told)
        if not self.yes:
            more = " --extra" if self.extra else ""
            text += f"\nNothing is removed yet: `emscope clean {self.run}{more} --yes` does that.\n"
            return Outcome(text, told)

        if is_locked(self.run):
            raise UserError(f"A command is at work on {self.run}: clean it when that is done.")
        n_bytes = 0
        for leftover in chosen:
            n_bytes += leftover.n_bytes  # read from the disk
            remove(leftover.path)
        told["removed"] = [str(leftover.path) for leftover in chosen]
        return Outcome(f"{text}\n{len(chosen)} removed, {size(n_bytes)}.\n", told)


@dataclass(frozen=True)
class Told:
    """A left-over as programs read it."""

    path: str
    reason: str
    known: bool
    bytes: int


def _told(leftover: LeftOver) -> Told:
    return Told(str(leftover.path), leftover.reason, leftover.known, leftover.n_bytes)


def listing(run: Path, leftovers: list[LeftOver]) -> str:
    """Return the left-overs as lines of text, those of emscope first."""
    if not leftovers:
        return f"{run}: every file belongs to a stage.\n"
    lines = []
    for known, title in ((True, "nothing needs these"), (False, "no record names these: --extra removes them too")):
        n_bytes, listed = 0, []
        for leftover in leftovers:
            if leftover.known is known:
                n_bytes += leftover.n_bytes
                listed.append(f"  {size(leftover.n_bytes):>9}  {leftover.path.relative_to(run)}  {leftover.reason}")
        if listed:
            lines += [f"{run}: {title} ({size(n_bytes)})", *listed]
    return "\n".join(lines) + "\n"


def remove(path: Path) -> None:
    """Remove a file, a link or a folder; what a link leads to stays.

    Raises:
        UserError: it cannot be removed.
    """
    try:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"Cannot remove {path} ({error.strerror}): see that you may.") from error


def size(n_bytes: int) -> str:
    """Return a number of bytes as '12 MB'."""
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.1f} {unit}"
    return f"{n_bytes} bytes"


COMMAND = Clean
