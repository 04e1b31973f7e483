"""Errors that are the user's or the machine's, each told in one sentence; all others are faults of ours.

Libraries wrap what the system says: torch's and safetensors' writers raise errors of their own when a disk is full. So
an error is looked at together with those that it came of.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator

from emscope.errors import UserError

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
UNWRITABLE = (errno.EACCES, errno.EROFS, errno.EPERM)
LOST_DRIVE = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV)
MANY_FILES = (errno.EMFILE, errno.ENFILE)
FULL_WORDS = ("No space left on device", "Disk quota exceeded", "database or disk is full")
TORCH_WRITER = re.compile(r"PytorchStreamWriter failed|unexpected pos \d+ vs \d+")
"""What torch says when a file it writes takes fewer bytes than it was given."""
RUST_NUMBER = re.compile(r"\(os error (\d+)\)|Os \{ code: (\d+)")
AGAIN = "free some space and run the same command again"


def user_sentence(error: BaseException) -> str | None:
    """Return the sentence for an error that is the user's or the machine's, None for a fault of ours."""
    if isinstance(error, UserError):
        return str(error)
    for part in _with_reasons(error):
        sentence = _of_the_machine(part)
        if sentence is not None:
            return sentence
    return None


def _with_reasons(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, those inside it, and those that it came of, each once."""
    waiting, seen = [error], set()
    while waiting:
        part = waiting.pop(0)
        if id(part) in seen:
            continue
        seen.add(id(part))
        yield part
        waiting += part.exceptions if isinstance(part, BaseExceptionGroup) else ()
        reason = part.__cause__ or (None if part.__suppress_context__ else part.__context__)
        waiting += [reason] if reason is not None else []


def _of_the_machine(error: BaseException) -> str | None:
    """Return the sentence for one error that the machine is the reason of."""
    if isinstance(error, UserError):  # one that was dealt with says nothing of what came after
        return None
    words, number = str(error), _number(error)
    where = getattr(error, "filename", None) or "the output"
    if number in FULL_DISK or any(known in words for known in FULL_WORDS):
        return f"The disk is full while writing {where}: {AGAIN}."
    if isinstance(error, RuntimeError) and TORCH_WRITER.search(words):
        return f"A file could not be written whole, most likely because the disk is full: {AGAIN}."
    if number == errno.EFBIG:
        return f"{where} grows larger than this drive or a limit (ulimit -f) allows: choose another folder with --out."
    if number in UNWRITABLE:
        return f"Cannot write {where}: {os.strerror(number or 0)}; choose another folder with --out."
    if number in LOST_DRIVE:
        return f"The drive with {where} fails ({os.strerror(number or 0)}): see to it, and run the same command again."
    if number in MANY_FILES:
        return "Too many files are open: close other programs, or raise the limit (ulimit -n)."
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "There is not enough memory: use a smaller batch (--batch-size, --token-budget) or a smaller model."
    return None


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error: of Python's own, or as libraries in Rust write it."""
    if isinstance(error, OSError):
        return error.errno
    found = RUST_NUMBER.search(str(error)) if type(error).__name__ in ("SafetensorError", "Exception") else None
    return int(found[1] or found[2]) if found else None
