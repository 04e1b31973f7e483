"""Locks between processes: whoever comes second waits, and says for whom.

A lock is a file that the operating system holds for a process (`filelock`): it is free again the moment the process is
gone, however it ended. The file itself stays and says nothing. Who holds a lock is noted beside it.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from emscope.errors import UserError
from emscope.files import cannot_write, value_sha256
from emscope.progress import duration

logger = logging.getLogger(__name__)

LOCKS = ".locks"
PATIENCE, REMINDER, POLL = 0.5, 600.0, 0.1
"""Seconds of waiting before a log line says so, between two such lines, and between two tries."""
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)
"""What drives answer that keep no locks."""
MAX_NOTE_BYTES = 4096

_warned: set[Path] = set()


@dataclass(frozen=True)
class Holder:
    """Who holds a lock.

    Attributes:
        pid: the process.
        host: its machine.
        since: local time at which it took the lock, as ISO text.
    """

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        """Return 'process 12 on HOST, since 12:03:04'."""
        return f"process {self.pid} on {self.host}, since {self.since.rpartition('T')[2]}"


@contextmanager
def locked(folder: Path, name: str, *, busy: UserError | None = None) -> Iterator[bool]:
    """Hold the lock `name` of a folder; waits for whoever holds it, and a log line says who that is.

    Yields whether it had to wait: what was read before may be out of date then.

    On a drive that keeps no locks the block runs without one, and a log line says so once.

    Args:
        folder: whose lock it is.
        name: what is locked.
        busy: raised at once where somebody holds the lock; None waits.

    Raises:
        UserError: the folder cannot be written to, or `busy`.
    """
    path = _lock_file(folder, name)
    lock, waited = _taken(path, folder, name, busy)
    if lock is None:
        yield False
        return
    note = path.with_suffix(".json")
    try:
        with suppress(OSError):  # it only helps those who wait
            note.write_text(json.dumps(asdict(_ourselves())), encoding="utf-8")
        yield waited
    finally:
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def is_locked(folder: Path) -> bool:
    """Say whether anybody holds a lock of a folder now; nothing is written."""
    return any(_is_held(path) for path in (folder / LOCKS).glob("*.lock"))


def _is_held(path: Path) -> bool:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    except (OSError, NotImplementedError):
        return False
    lock.release()
    return False


def _lock_file(folder: Path, name: str) -> Path:
    """Return a lock's file: a name may hold what no file's name does."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:60]
    return folder / LOCKS / f"{plain if plain == name else f'{plain}-{value_sha256(name)[:8]}'}.lock"


def _taken(path: Path, folder: Path, name: str, busy: UserError | None) -> tuple[BaseFileLock | None, bool]:
    """Return the lock, held, and whether that took waiting; None where the drive keeps no locks."""
    lock, began = FileLock(path), time.monotonic()
    patience = 0.0
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=patience, poll_interval=POLL)
            return lock, patience > 0
        except Timeout:
            if busy is not None:
                raise busy from None
            if patience > 0:
                waited = time.monotonic() - began
                so_far = f" ({duration(waited)} so far)" if waited > REMINDER else ""
                logger.info("%s: waits for %s%s", name, _holder(path), so_far)
            patience = REMINDER if patience else PATIENCE
        except (OSError, NotImplementedError) as error:
            if isinstance(error, FileNotFoundError) and patience > 0:  # who had the lock has tidied up
                patience = POLL
                time.sleep(POLL)
                continue
            if isinstance(error, OSError) and error.errno not in NO_LOCKS:
                raise cannot_write(path, error.strerror) from error
            if folder not in _warned:
                logger.warning("%s is on a drive that keeps no locks: run one command on it at a time.", folder)
                _warned.add(folder)
            return None, False


def _holder(path: Path) -> str:
    """Return in words who holds a lock."""
    try:
        with path.with_suffix(".json").open(encoding="utf-8") as file:
            values = json.loads(file.read(MAX_NOTE_BYTES))
        return str(Holder(int(values["pid"]), str(values["host"]), str(values["since"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "another process"


def _ourselves() -> Holder:
    return Holder(os.getpid(), socket.gethostname(), datetime.now().isoformat(timespec="seconds"))
