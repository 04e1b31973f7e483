"""A disk that fills up while a command works: one sentence, then with room again the same bytes."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from survive.bench import Bench, Case, Reference, go_on, not_done, not_said, outputs_of, unlike
from survive.processes import Before, run
from survive.server import Served
from survive.workers import Task

FULL = {"run": 20, "train": 20, "judge-server": 20, "steer": 8}
"""Commands whose disk fills up, and at how many sizes."""
SMALLEST = 4096  # bytes
FULL_WORDS = "disk is full"


def plan_disk(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return a task for every command and size of a disk."""
    tasks: list[Task] = []
    for name in FULL:
        if not only or name in only:
            reference = bench.reference(name)
            tasks += [partial(full_disk, reference, size, bench.scratch, bench.server) for size in sizes(bench, name)]
    return tasks


def sizes(bench: Bench, name: str) -> list[int]:
    """Return how many bytes there is room for: from one page to nearly all that the command leaves."""
    reference = bench.reference(name)
    needed = used_bytes(bench.scratch / "references" / name / "1")
    if reference.setting.needs is not None:
        needed = max(10 * SMALLEST, needed - used_bytes(reference.setting.needs))
    n = bench.few(FULL[name])
    return [int(SMALLEST * (needed / SMALLEST) ** (number / n)) for number in range(n)]


def used_bytes(folder: Path) -> int:
    """Return how much a folder takes on a disk of pages."""
    pages = (-(-path.stat().st_size // SMALLEST) + 1 for path in folder.rglob("*") if not path.is_symlink())
    return SMALLEST * sum(pages)


def full_disk(reference: Reference, size: int, scratch: Path, server: Served) -> Case:
    """Run a command with room for so many bytes, then with room enough."""
    setting = reference.setting
    folder = scratch / "disk" / f"{setting.name}-{size}"
    key = f"disk-{folder.name}"
    with small_disk(folder) as disk:
        if setting.needs is not None:
            shutil.copytree(setting.needs, folder / setting.outputs[0])
        limit = disk.leave(size)
        first = run(setting.words, folder, limit, setting.environment(server, key))
        disk.grow()
        second = go_on(setting, folder, server, key)
        wrong = [
            not_said(first, FULL_WORDS, or_done=True),
            not_done(second),
            unlike(reference.contents, outputs_of(folder, setting)),
        ]
    return Case.of(f"{setting.name}, room for {size // 1024} KB", [first, second], wrong)


class SmallDisk:
    """A disk in memory, or where nothing can be mounted a limit on the length of each file."""

    def __init__(self, folder: Path, mounted: bool) -> None:
        self.folder, self.mounted = folder, mounted

    def leave(self, size: int) -> Before | None:
        """Leave room for so many bytes."""
        if not self.mounted:
            return lambda folder: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        state = os.statvfs(self.folder)
        used = (state.f_blocks - state.f_bfree) * state.f_frsize
        self._resize(max(used + size, SMALLEST))
        return None

    def grow(self) -> None:
        """Make room enough."""
        if self.mounted:
            self._resize(2**30)

    def _resize(self, size: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.folder)], check=True)


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """Make a disk of its own for a folder, if this process may mount."""
    folder.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1g", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    try:
        yield SmallDisk(folder, mounted)
    finally:
        if mounted:
            subprocess.run(["umount", "-l", str(folder)], check=True)
