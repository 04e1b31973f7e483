"""Too little memory: one sentence that says so, or success; then without the limit the same bytes."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from survive.bench import Bench, Case, Reference, go_on, not_done, not_said, outputs_of, unlike
from survive.processes import run
from survive.server import Served
from survive.workers import Task

SHORT = ("run", "steer", "train", "judge-local")
LIMITS = {"RLIMIT_AS": resource.RLIMIT_AS, "RLIMIT_DATA": resource.RLIMIT_DATA}
TAKEN = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
LEAST, GROWTH, MOST = 32.0, 2.0, 7
"""Megabytes beyond what the process has at the command's start: of the first size, its growth, and how many sizes."""
MEMORY_WORDS = "memory"


def plan_memory(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return a task for every command, kind of limit and size."""
    return [
        partial(short_of_memory, bench.reference(name), limit, LEAST * GROWTH**number, bench.scratch, bench.server)
        for name in SHORT
        if not only or name in only
        for limit in LIMITS
        for number in range(bench.few(MOST))
    ]


def short_of_memory(reference: Reference, limit: str, megabytes: float, scratch: Path, server: Served) -> Case:
    """Run a command with so much more memory than it has at its start, then without a limit."""
    setting = reference.setting
    name = f"{setting.name}, {limit} {megabytes:g} MB above the start"
    folder = scratch / "memory" / f"{setting.name}-{limit}-{megabytes:g}"
    setting.prepare(folder)
    first = run(setting.words, folder, lambda _: allow(limit, megabytes), setting.environment(server, folder.name))
    second = go_on(setting, folder, server, folder.name)
    wrong = [
        not_said(first, MEMORY_WORDS, or_done=True),
        not_done(second),
        unlike(reference.contents, outputs_of(folder, setting)),
    ]
    return Case.of(name, [first, second], wrong)


def allow(limit: str, megabytes: float) -> None:
    """Limit this process to what it has and so much more."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    has = next(int(line.split()[1]) for line in status.splitlines() if line.startswith(TAKEN[limit])) * 1024
    most = has + int(megabytes * 2**20)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(LIMITS[limit], (most, most))
