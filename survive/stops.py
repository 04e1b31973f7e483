"""Ctrl-C, SIGTERM and SIGHUP: a true last line, exit 2, and the same command goes on to the same bytes."""

from __future__ import annotations

import logging
import os
import random
import shutil
import signal
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from survive.bench import Bench, Case, Reference, go_on, not_done, not_said, outputs_of, unlike
from survive.moments import at_operation
from survive.processes import Before, Ending, start
from survive.server import Served
from survive.workers import Task

SIGNALS = {"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGHUP": signal.SIGHUP}
STOPPED = "Stopped."
DRAWS = 8
MOST = 2
STAGES = "emscope.pipeline.stages"
MANY_STAGES = ("run", "steer", "sweep", "induce")


def plan_stops(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return tasks: Ctrl-C as each stage begins, and every signal at random moments of every command."""
    tasks: list[Task] = []
    for name in bench.settings:
        if only and name not in only:
            continue
        reference = bench.reference(name)
        for number in range(bench.few(MOST)):
            for what in SIGNALS:
                tasks.append(partial(stopped_at_random, reference, what, number, bench.scratch, bench.server))
        if name in MANY_STAGES and bench.kills >= 10:
            stages = [
                stage for stage in reference.stages if name == "run" or stage not in bench.reference("run").stages
            ]
            tasks += [partial(stopped_in_stage, reference, stage, bench.scratch, bench.server) for stage in stages]
    return tasks


def stopped_in_stage(reference: Reference, stage: str, scratch: Path, server: Served) -> Case:
    """Send Ctrl-C as a stage begins."""

    def before(folder: Path) -> None:
        logging.getLogger(STAGES).addFilter(lambda line: _stop_at(line, stage))

    folder = scratch / "stops" / f"{reference.setting.name}-{stage}"
    setting = reference.setting
    setting.prepare(folder)
    ending = start(setting.words, folder, before, setting.environment(server, folder.name)).wait()
    return _judge(reference, f"{setting.name}: Ctrl-C as {stage} begins", folder, ending, server)


def _stop_at(line: logging.LogRecord, stage: str) -> bool:
    if line.getMessage() == stage:
        os.kill(os.getpid(), signal.SIGINT)
    return True


def stopped_at_random(reference: Reference, what: str, number: int, scratch: Path, server: Served) -> Case:
    """Send a signal at a random moment, or just before a file operation by turns."""
    setting = reference.setting
    folder = scratch / "stops" / f"{setting.name}-{what}-{number}"
    chooser = random.Random(folder.name)
    ending = Ending(0, 0.0, "", "")
    for _ in range(DRAWS):
        ending = _stopped(reference, SIGNALS[what], number % 2 == 0, folder, chooser, server)
        if ending.code:
            break
    return _judge(reference, f"{setting.name}: {what}, {number}", folder, ending, server)


def _stopped(
    reference: Reference, number: int, at_random: bool, folder: Path, chooser: random.Random, server: Served
) -> Ending:
    setting = reference.setting
    shutil.rmtree(folder, ignore_errors=True)
    setting.prepare(folder)
    operation = chooser.randint(1, max(1, reference.operations))

    def before(place: Path) -> None:
        at_operation(place, operation, lambda: os.kill(os.getpid(), number))

    hook: Before | None = None if at_random else before
    child = start(setting.words, folder, hook, setting.environment(server, folder.name))
    if at_random:
        child.signal_at(chooser.uniform(0.1, 0.95) * reference.seconds, number)
    return child.wait()


def _judge(reference: Reference, name: str, folder: Path, ending: Ending, server: Served) -> Case:
    setting = reference.setting
    second = go_on(setting, folder, server, folder.name)
    wrong = [not_said(ending, STOPPED), not_done(second), unlike(reference.contents, outputs_of(folder, setting))]
    return Case.of(name, [ending, second], wrong)
