"""SIGKILL at many moments of each command: continued by the same words, it must leave the same bytes."""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from survive.bench import Bench, Reference, go_on, outputs_of
from survive.comparing import leftovers
from survive.moments import Moment, draw
from survive.processes import start
from survive.server import Counts, Served
from survive.workers import Task

MAIN = ("run", "bank", "steer", "judge-server")
"""Settings that get all the kills; each of the others gets a fifth of them."""
SEED = 0
DRAWS = 8
"""Moments drawn for one kill until one comes before the command's end."""
EVERY = 5
"""Of every so many kills one is followed by the same command once more."""
CONCURRENCY = 16  # calls in flight, the command's default


@dataclass(frozen=True)
class Kill:
    """One kill, and what came of it.

    Attributes:
        setting: name of the command.
        moment: when.
        draws: moments drawn until one came before the command's end.
        killed: whether one did.
        code: exit code of the command that went on.
        said: its last line, where it did not succeed.
        differs: files that are not what the reference has.
        hidden: hidden files that were left behind at the end.
        again: whether the same command, given once more, left everything as it was; asked of every fifth kill.
        calls_again: calls of the server that were answered twice.
    """

    setting: str
    moment: Moment
    draws: int
    killed: bool
    code: int
    said: str
    differs: tuple[str, ...]
    hidden: int
    again: bool
    calls_again: int = 0

    @property
    def survived(self) -> bool:
        """Whether the command went on to the same bytes."""
        return self.killed and self.code == 0 and not self.differs and self.again


def kill_and_go_on(
    reference: Reference, number: int, chooser: random.Random, folder: Path, server: Served | None
) -> Kill:
    """Kill the command at one moment, give it again, and compare."""
    setting = reference.setting
    moment, draws, key = Moment("none"), 0, ""
    killed = False
    while not killed and draws < DRAWS:
        draws += 1
        moment = draw(chooser, number, reference.seconds, reference.operations)
        key = f"{folder.name}-{draws}"
        shutil.rmtree(folder, ignore_errors=True)
        setting.prepare(folder)
        child = start(setting.words, folder, moment.before, setting.environment(server, key))
        moment.come(child)
        killed = child.wait().killed

    ending = go_on(setting, folder, server, key)
    after = outputs_of(folder, setting)
    counts = server.counts(key) if server and setting.served else Counts(0, 0, 0, 0)
    same = True
    if number % EVERY == 0:
        once_more = go_on(setting, folder, server, key)
        same = once_more.code == 0 and not outputs_of(folder, setting).differences(after)
    said = "" if ending.code == 0 else ending.last_line
    return Kill(
        setting.name,
        moment,
        draws,
        killed,
        ending.code,
        said,
        tuple(reference.contents.differences(after)),
        len(leftovers(folder)),
        same,
        counts.again,
    )


def plan_kills(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return a task for every kill of every setting."""
    tasks: list[Task] = []
    for name in bench.settings:
        if only and name not in only:
            continue
        n_kills = bench.kills if name in MAIN else max(1, bench.kills // 5)
        reference = bench.reference(name)
        tasks += [partial(one_kill, reference, number, bench.scratch, bench.server) for number in range(n_kills)]
    return tasks


def one_kill(reference: Reference, number: int, scratch: Path, server: Served) -> Kill:
    """Kill one command once, at a moment that its name and number decide."""
    name = reference.setting.name
    chooser = random.Random(f"{SEED} {name} {number}")
    folder = scratch / "kills" / f"{name}-{number}"
    return kill_and_go_on(reference, number, chooser, folder, server)


def tell_kills(bench: Bench, kills: Sequence[Kill]) -> dict[str, Any]:
    """Return the figures of every command that was killed."""
    figures = {name: _figures(bench.reference(name), kills) for name in dict.fromkeys(kill.setting for kill in kills)}
    return {"all_survived": all(kill.survived for kill in kills), "settings": figures}


def _figures(reference: Reference, kills: Sequence[Kill]) -> dict[str, Any]:
    setting = reference.setting
    own = [kill for kill in kills if kill.setting == setting.name]
    figures: dict[str, Any] = {
        "command": " ".join(("emscope", *setting.words[:1])),
        "kills": sum(kill.killed for kill in own),
        "same_bytes": sum(kill.survived for kill in own),
        "moments": dict(Counter(kill.moment.kind for kill in own if kill.killed)),
        "files": len(reference.contents.hashes),
        "files_compared_whole": len(reference.contents.exact),
        "seconds_undisturbed": round(reference.seconds, 1),
        "file_operations": reference.operations,
        "hidden_files_left": sum(kill.hidden for kill in own),
        "varies_undisturbed": list(reference.varies),
        "failures": [asdict(kill) for kill in own if not kill.survived],
    }
    if setting.served:
        figures["calls_answered_twice"] = sum(kill.calls_again for kill in own)
        figures["most_after_one_kill"] = max(kill.calls_again for kill in own)
        figures["calls_in_flight"] = CONCURRENCY
    return figures
