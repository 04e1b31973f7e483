"""A judge that fails, goes away or never was there: one sentence, and what is known is not asked for again."""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from survive.bench import Bench, Case, Reference, go_on, not_done, not_said, outputs_of, unlike
from survive.kills import CONCURRENCY
from survive.processes import LOOK, Child, run, start
from survive.server import Served, served
from survive.workers import Task
from survive.world import N_ANSWERS

CALLS = 2 * N_ANSWERS
ANSWERED = 1000  # calls before the judge goes away
UNSCORED = re.compile(r"unscored [1-9]")
FASTER = 0.01
"""Waits between tries are this much shorter, so that an hour of them is half a minute."""


def plan_absent_judge(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return a task for every way in which a judge can be away."""
    reference = bench.reference("judge-server")
    tasks: list[Task] = [partial(nobody_there, reference, bench.scratch)]
    tasks += [partial(away_for_good, reference, status, bench.scratch, bench.server) for status in (503, 429, 401)]
    tasks += [partial(away_for_a_while, reference, bench.scratch, bench.server)]
    return [*tasks, partial(gone_and_back, reference, bench.scratch)]


def nobody_there(reference: Reference, scratch: Path) -> Case:
    """Ask a port on which nobody listens."""
    folder = scratch / "judge" / "nobody"
    reference.setting.prepare(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    ending = run(reference.setting.words, folder, _hasten, {"OPENAI_BASE_URL": f"http://127.0.0.1:{port}/v1"})
    return Case.of("nobody listens", [ending], [not_said(ending, str(port))])


def away_for_good(reference: Reference, status: int, scratch: Path, server: Served) -> Case:
    """Fail every call after a thousand answers, for longer than the command tries; then answer again."""
    setting = reference.setting
    folder = scratch / "judge" / f"away-{status}"
    setting.prepare(folder)
    server.fail(folder.name, status, ANSWERED)
    first = run((*setting.words, "--attempts", "3"), folder, _hasten, setting.environment(server, folder.name))
    kept = server.counts(folder.name)
    server.heal(folder.name)
    second = go_on(setting, folder, server, folder.name)
    seen = server.counts(folder.name)
    wrong = [
        "" if first.code == 2 or UNSCORED.search(first.printed) else f"exit {first.code}, nothing said of it",
        not_done(second),
        unlike(reference.contents, outputs_of(folder, setting)),
        "" if seen.prompts == CALLS and seen.again <= CONCURRENCY else f"{seen.prompts} prompts, {seen.again} again",
    ]
    return Case.of(f"HTTP {status} after {kept.calls} answers, {kept.refused} calls refused", [first, second], wrong)


def away_for_a_while(reference: Reference, scratch: Path, server: Served) -> Case:
    """Fail calls for two seconds: the same command waits, and nothing is unscored."""
    setting = reference.setting
    folder = scratch / "judge" / "a-while"
    setting.prepare(folder)
    server.fail(folder.name, 503, ANSWERED, seconds=4)
    ending = run(setting.words, folder, environment=setting.environment(server, folder.name))
    seen = server.counts(folder.name)
    wrong = [
        not_done(ending),
        unlike(reference.contents, outputs_of(folder, setting)),
        "" if seen.calls == CALLS else f"{seen.calls} of {CALLS} calls answered",
    ]
    return Case.of(f"HTTP 503 for a while ({seen.refused} calls refused)", [ending], wrong)


def gone_and_back(reference: Reference, scratch: Path) -> Case:
    """Kill the server after a thousand answers; another one at the same address answers only the rest."""
    setting = reference.setting
    folder = scratch / "judge" / "gone"
    setting.prepare(folder)
    with served() as server:
        child = start(setting.words, folder, _hasten, setting.environment(server, folder.name))
        answered = _wait_for(server, folder.name, ANSWERED, child)
    first = child.wait()
    with served(server.port) as back:
        second = go_on(setting, folder, back, folder.name)
        rest = back.counts(folder.name).calls
    rows = len(outputs_of(folder, setting).hashes)
    twice = answered + rest - CALLS
    wrong = [not_said(first, str(server.port)), not_done(second), "" if rows == 2 else "the table is missing"]
    return Case.of(f"gone after {answered} answers, the next one asked {rest} ({twice} beyond)", [first, second], wrong)


def _wait_for(server: Served, key: str, calls: int, child: Child) -> int:
    while True:
        answered = server.counts(key).calls
        if answered >= calls or child.ended():
            return answered
        time.sleep(20 * LOOK)


def _hasten(_: Path) -> None:
    """Let every wait of this process's event loops be shorter."""
    real = asyncio.sleep

    async def sleep(seconds: float, *more: Any) -> Any:
        return await real(FASTER * seconds, *more)

    asyncio.sleep = sleep  # type: ignore[assignment]
