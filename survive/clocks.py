"""Clocks that jump and files from the future: nothing is made again for that, and the bytes are the same."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from survive.bench import Bench, Case, Reference, go_on, not_done, outputs_of, unlike
from survive.processes import run, start
from survive.server import Served
from survive.workers import Task

DAY, YEAR = 86_400.0, 31_557_600.0
SHIFTS = {"a day back": -DAY, "a year ahead": YEAR}
DISTURBED = ("run", "steer", "bank", "judge-server")
NOTHING_MADE = "0 stages made"


def plan_clocks(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return a task for every command and jump of the clock, and for files of other times."""
    tasks: list[Task] = []
    for name in DISTURBED:
        if only and name not in only:
            continue
        reference = bench.reference(name)
        for words, shift in SHIFTS.items():
            tasks.append(partial(clock_jumps, reference, words, shift, bench.scratch, bench.server))
            tasks.append(partial(files_of_other_times, reference, words, shift, bench.scratch, bench.server))
    return tasks


def clock_jumps(reference: Reference, words: str, shift: float, scratch: Path, server: Served) -> Case:
    """Kill a command half-way, let the clock jump, and go on; then give it once more at the right time."""
    setting = reference.setting
    folder = scratch / "clocks" / f"{setting.name}-jump-{shift:.0f}"
    setting.prepare(folder)
    child = start(setting.words, folder, environment=setting.environment(server, folder.name))
    child.signal_at(random.Random(folder.name).uniform(0.2, 0.8) * reference.seconds)
    child.wait()
    second = go_on(setting, folder, server, folder.name, lambda _: shift_clock(shift))
    third = go_on(setting, folder, server, folder.name)
    wrong = [not_done(second), not_done(third), unlike(reference.contents, outputs_of(folder, setting))]
    return Case.of(f"{setting.name}: the clock is {words} after a kill", [second, third], wrong)


def files_of_other_times(reference: Reference, words: str, shift: float, scratch: Path, server: Served) -> Case:
    """Give all files of a finished command another time; the command must find them as they were."""
    setting = reference.setting
    folder = scratch / "clocks" / f"{setting.name}-files-{shift:.0f}"
    setting.prepare(folder)
    first = run(setting.words, folder, environment=setting.environment(server, folder.name))
    before = outputs_of(folder, setting)
    for path in [*folder.rglob("*"), folder]:
        os.utime(path, (time.time() + shift, time.time() + shift))
    second = run(setting.words, folder, environment=setting.environment(server, folder.name))
    made = "" if setting.name != "run" or NOTHING_MADE in second.printed else f"makes stages again: {second.said}"
    wrong = [not_done(first), not_done(second), made, unlike(before, outputs_of(folder, setting))]
    return Case.of(f"{setting.name}: its files are {words}", [first, second], wrong)


def shift_clock(seconds: float) -> None:
    """Let the clock of this process be wrong."""
    real, real_ns = time.time, time.time_ns
    time.time = lambda: real() + seconds
    time.time_ns = lambda: real_ns() + int(seconds * 1e9)
