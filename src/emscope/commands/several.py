"""A command in several processes, as torchrun and `accelerate launch` start it: the first one writes and speaks."""

from __future__ import annotations

import dataclasses
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from emscope import processes, terminal
from emscope.errors import UserError

if TYPE_CHECKING:
    from emscope.commands.parsing import Command


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Have every process but the first write nothing to the terminal but what went wrong, with its number."""
    if processes.is_first():
        yield
        return
    logging.getLogger("emscope").setLevel(logging.ERROR)
    with terminal.silenced(f"process {processes.rank()}"):
        yield


@contextmanager
def shared(command: Command, name: str) -> Iterator[Command]:
    """Yield the command as this process is to run it: what it writes goes to its place from the first one alone.

    Raises:
        UserError: several processes were started, and the command has no use for them.
    """
    if processes.count() == 1 or name == "train":
        yield command
        return
    if not getattr(getattr(command, "load", None), "tensor_parallel", False):
        raise UserError(
            f"{processes.count()} processes were started, and `emscope {name}` would do the same work in each: start "
            "it alone, or give --tensor-parallel, where it has that flag, to share one model among them."
        )
    out = getattr(command, "out", None)
    if processes.is_first() or out is None:
        yield command
        return
    with tempfile.TemporaryDirectory(prefix="emscope-") as folder:
        elsewhere = Path(folder) / Path(os.fspath(out)).name
        yield dataclasses.replace(command, out=elsewhere)  # type: ignore[type-var, call-arg]
