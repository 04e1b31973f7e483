"""Parts of long work, kept as they are finished: after a stop the same work reads them instead of doing them again.

The library says around each piece of heavy work how its result is written and read (`kept`), or saves now and then how
far a long one is (`Slot`). Both do nothing unless somebody listens (`kept_in`).

A part is used again only for the very same work: its name on disk is the hash of the store's key, of everything that
was kept before it, and of what it is computed from. So what comes out after a stop is what would have come out without.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from emscope import progress
from emscope.files import atomic_path

logger = logging.getLogger(__name__)

T = TypeVar("T")
Described = Callable[[], Any]

SAVED_EVERY = 60.0
"""Seconds between two savings of how far a long piece of work is."""
DIGEST = 32  # bytes of a sha256, in front of each part
VALUE = "value"  # the array in which a part's plain value is stored, as JSON

_store: ContextVar[Store | None] = ContextVar("part_store", default=None)
_in_force: ContextVar[tuple[Described, ...]] = ContextVar("parts_in_force", default=())


@dataclass(frozen=True)
class Part:
    """A result as it is stored: a plain value that JSON can hold, arrays by name, and how long it took to make.

    Arrays come back in C order: give them in that order, or what is computed from them may differ in the last bit.
    `rows` is how many rows it is about, where somebody counts them.
    """

    value: Any = None
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    seconds: float = 0.0
    rows: int | None = None


class Store:
    """The parts of one piece of work, in a folder that is there from the first part on.

    Attributes:
        folder: where the parts are.
        reused: parts that were read.
        written: parts that were written.
        seconds_before: what the parts that were read took when they were made.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.reused, self.written = folder, 0, 0
        self.seconds_before = 0.0
        self._before = key
        self._number = 0
        self._full = False

    def next_file(self, name: str, inputs: Any) -> Path:
        """Return where the next part is kept; its name tells all that it is computed from."""
        self._number += 1
        told = [self._before, name, inputs, [describe() for describe in _in_force.get()]]
        self._before = sha256_of(told)
        return self.folder / f"{self._number:05d}-{self._before[:DIGEST]}"

    def shard_file(self, name: str, inputs: Any) -> Path:
        """Return where a part is kept that depends on what was kept so far, but on no other shard of its work."""
        told = [self._before, name, inputs, [describe() for describe in _in_force.get()]]
        return self.folder / "shards" / sha256_of(told)[:DIGEST]

    def read(self, file: Path) -> Part | None:
        """Return a part, None where there is none; a damaged one is thrown away."""
        part = read_part(file)
        if part is None and file.is_file():
            self.drop(file)
        return part

    def write(self, file: Path, part: Part) -> None:
        """Keep a part. It is not forced to the disk: what a power cut leaves of it is seen to be damaged."""
        if self._full:
            return
        payload = _packed(part)
        temporary = file.with_name(f".{file.name}.{os.getpid()}.tmp")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
            temporary.replace(file)
        except OSError as error:  # the work itself goes on: it only loses what a stop would have left
            self._full = True
            logger.warning("What is finished cannot be kept in %s (%s): a stop loses it.", self.folder, error.strerror)
            _remove(temporary)
            return
        self.written += 1

    def follow(self, part: Part) -> None:
        """Let all later parts depend on what this one holds."""
        self._before = sha256_of([self._before, part.value, list(part.arrays.items())])

    def note_reuse(self, part: Part) -> None:
        """Count a part that was read, and say once that the work goes on from there."""
        if not self.reused:
            logger.info("  going on from what an earlier start has finished")
        self.reused += 1
        self.seconds_before += part.seconds
        progress.saved(part.seconds)

    def drop(self, file: Path) -> None:
        """Throw a part away that cannot be used."""
        logger.warning("A part in %s is damaged: it is made again.", self.folder)
        _remove(file)


def store_in_force() -> Store | None:
    """Return the store that keeps the parts of the work in this context, None without one."""
    return _store.get()


def depends_on_context() -> bool:
    """Say whether something is in force in this process that changes what a model does (see `under`)."""
    return bool(_in_force.get())


def read_part(file: Path) -> Part | None:
    """Return the part that a file holds, None where there is none or it is damaged."""
    try:
        stored = file.read_bytes()
    except OSError:
        return None
    digest, payload = stored[:DIGEST], stored[DIGEST:]
    return _unpacked(payload) if hashlib.sha256(payload).digest() == digest else None


def write_part(file: Path, part: Part) -> int:
    """Write a part whole or not at all, forced to the disk, and return its bytes.

    Raises:
        UserError: the folder cannot be written to.
    """
    payload = _packed(part)
    with atomic_path(file) as temporary:
        temporary.write_bytes(hashlib.sha256(payload).digest() + payload)
    return DIGEST + len(payload)


def kept(
    name: str, inputs: Described, make: Callable[[], T], write: Callable[[T], Part], read: Callable[[Part], T]
) -> T:
    """Return what `make` returns, or what it returned when the same work was done before a stop.

    Args:
        name: what kind of work it is.
        inputs: returns what the result is computed from: anything that JSON, `str` or the bytes of arrays tell.
        make: does the work. It must leave nothing behind but what it returns: it is not called where a part is read.
        write: makes a part of the result.
        read: makes the result of a part, the same to the last bit.
    """
    store = _store.get()
    if store is None:
        return make()
    file = store.next_file(name, inputs())
    found = store.read(file)
    if found is not None:
        try:
            result = read(found)
        except (KeyError, IndexError, TypeError, ValueError):  # of another layout than this version writes
            store.drop(file)
        else:
            store.note_reuse(found)
            store.follow(found)
            return result
    began = time.monotonic()
    result = make()
    part = replace(write(result), seconds=time.monotonic() - began)
    store.write(file, part)
    store.follow(part)
    return result


def kept_value(name: str, inputs: Described, make: Callable[[], T]) -> T:
    """Return what `make` returns, or returned before a stop: a value that is the same after being written as JSON."""
    found: T = kept(name, inputs, make, Part, lambda part: part.value)
    return found


def kept_array(name: str, inputs: Described, make: Callable[[], np.ndarray]) -> np.ndarray:
    """Return the array that `make` returns, or returned before a stop."""
    return kept_arrays(name, inputs, lambda: {"array": make()})["array"]


def kept_arrays(name: str, inputs: Described, make: Callable[[], dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Return the arrays that `make` returns, or returned before a stop."""
    return kept(name, inputs, make, lambda arrays: Part(None, arrays), lambda part: dict(part.arrays))


class Slot:
    """How far a long piece of work is, saved about once a minute over what was saved before.

    Begin from `begun` if it holds anything, call `save` after every step and `finish` at the end.
    """

    def __init__(self, name: str, inputs: Described) -> None:
        """Take the next part of the store in force, if there is one."""
        self._store = _store.get()
        self._file = Path() if self._store is None else self._store.next_file(name, inputs())
        self._began = self._saved = time.monotonic()
        self._moved = False
        self.begun = None if self._store is None else self._store.read(self._file)
        if self._store is not None and self.begun is not None:
            self._store.note_reuse(self.begun)

    @property
    def seconds_before(self) -> float:
        """What the work took up to where it begins now."""
        return 0.0 if self.begun is None else self.begun.seconds

    def save(self, state: Callable[[], Part]) -> None:
        """Save the state, if a minute has passed since that was done."""
        self._moved = True
        if self._store is not None and time.monotonic() - self._saved >= SAVED_EVERY:
            self._store.write(self._file, self._timed(state()))
            self._saved = time.monotonic()

    def finish(self, state: Callable[[], Part]) -> None:
        """Save the last state: the work is then done, and what follows depends on it."""
        if self._store is not None:
            if self._moved or self.begun is None:
                self._store.write(self._file, self._timed(state()))
            self._store.follow(state())

    def _timed(self, part: Part) -> Part:
        return replace(part, seconds=self.seconds_before + time.monotonic() - self._began)


@contextmanager
def kept_in(folder: Path, key: Any) -> Iterator[Store]:
    """Keep the parts of all work inside this context in `folder`; `key` tells what the work depends on as a whole.

    What can change the last bit of a number belongs to the key (`organisms.lineage.circumstances`). Nothing is removed
    at the end: whoever has written the whole result calls `forget`.
    """
    hashed = sha256_of(key)
    store = Store(folder / hashed[:DIGEST], hashed)
    token = _store.set(store)
    try:
        yield store
    finally:
        _store.reset(token)


@contextmanager
def kept_beside(out: Path, key: Any) -> Iterator[None]:
    """Keep the parts of work whose result is written to `out` in a hidden folder beside it, until that is done."""
    folder = out.parent / f".{out.name}.parts"
    with kept_in(folder, key):
        yield
    forget(folder)


def forget(folder: Path) -> None:
    """Remove a folder of parts, and the folder it is in where that holds nothing else and is hidden too."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.parent.name.startswith("."):
        try:
            folder.parent.rmdir()
        except OSError:  # other parts are in it
            return


@contextmanager
def under(describe: Described) -> Iterator[None]:
    """Let all parts inside this context depend on something that changes what a model does, such as an intervention."""
    hashed = functools.cache(lambda: sha256_of(describe()))  # once, when the first part asks
    token = _in_force.set((*_in_force.get(), hashed))
    try:
        yield
    finally:
        _in_force.reset(token)


def sha256_of(value: Any) -> str:
    """Return the hex sha256 of nested plain values and arrays: equal ones have equal hashes, whatever they are."""
    digest = hashlib.sha256()
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=lambda item: _told(item, digest))
    digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def _told(item: Any, digest: Any) -> Any:
    """Return what JSON says of an array, whose bytes go to the digest; of anything else its text."""
    if not isinstance(item, np.ndarray):
        return str(item)
    digest.update(np.ascontiguousarray(item).tobytes())
    return ["array", str(item.dtype), list(item.shape)]


def _packed(part: Part) -> bytes:
    told = [part.value, part.seconds, list(part.arrays), part.rows]  # safetensors has an order of its own
    text = json.dumps(told, ensure_ascii=False, default=_plain).encode("utf-8", "surrogatepass")
    arrays = {name: np.ascontiguousarray(array) for name, array in part.arrays.items()}
    return bytes(save({VALUE: np.frombuffer(text, dtype=np.uint8), **arrays}))


def _plain(item: Any) -> Any:
    """Return a number of numpy's as one of Python's."""
    return item.item()


def _unpacked(payload: bytes) -> Part | None:
    try:
        arrays = load(payload)
        value, seconds, names, rows = json.loads(arrays.pop(VALUE).tobytes().decode("utf-8", "surrogatepass"))
        return Part(value, {name: arrays[name] for name in names}, float(seconds), rows)
    except (SafetensorError, KeyError, TypeError, ValueError, RecursionError):
        return None


def _remove(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError:
        return
