"""Several commands at once on one run: no stage is lost, none is made twice, and the bytes are the same."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from survive.bench import Bench, Case, Reference, not_done, outputs_of, unlike
from survive.comparing import RECORDS, Contents, contents
from survive.processes import Ending, start
from survive.server import Served
from survive.settings import RUN
from survive.workers import Task

MADE = re.compile(r"(\d+) stages made")
MOST = 4
SAME = ("run", "steer", "bank", "judge-server")
PAIRS = (("run", "steer"), ("steer", "induce"), ("steer", "sweep", "induce"), ("bank", "steer"))
"""Commands that are begun at once on one finished run."""
IN_TURN = ("report.html", "lineage.json")  # they tell in what order commands came


def plan_together(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return tasks: a command beside itself, and commands beside others."""
    tasks: list[Task] = []
    for number in range(bench.few(MOST)):
        for name in SAME:
            if not only or name in only:
                tasks.append(partial(twice, bench.reference(name), number, bench.scratch, bench.server))
        for names in PAIRS:
            if not only or set(names) <= set(only):
                references = [bench.reference(name) for name in names]
                tasks.append(partial(beside, references, number, bench.scratch, bench.finished))
    return tasks


def twice(reference: Reference, number: int, scratch: Path, server: Served) -> Case:
    """Begin the same command twice, a little apart."""
    setting = reference.setting
    folder = scratch / "together" / f"{setting.name}-{number}"
    setting.prepare(folder)
    environment = setting.environment(server, folder.name)
    children = [start(setting.words, folder, environment=environment) for _ in range(2)]
    endings = [child.wait() for child in children]
    wrong = [*map(not_done, endings), unlike(reference.contents, outputs_of(folder, setting))]
    if setting.name == "run":
        made = sum(int(found[1]) for ending in endings if (found := MADE.search(ending.printed)))
        stages = len(_stages(folder))
        wrong.append("" if made == stages else f"{made} stages were made, {stages} are recorded")
    return Case.of(f"{setting.name} beside itself, {number}", endings, wrong)


def beside(references: Sequence[Reference], number: int, scratch: Path, finished: Path) -> Case:
    """Begin several commands at once on one finished run; then each once more, which must make nothing."""
    names = [reference.setting.name for reference in references]
    folder = scratch / "together" / f"{'-'.join(names)}-{number}"
    folder.mkdir(parents=True)
    shutil.copytree(finished, folder / RUN)
    endings = [child.wait() for child in [start(reference.setting.words, folder) for reference in references]]
    after = contents(folder)
    again: list[Ending] = [start(reference.setting.words, folder).wait() for reference in references]
    wrong = [*map(not_done, [*endings, *again]), unlike(_but_order(after), _but_order(contents(folder)))]
    for reference in references:
        own = _but_order(reference.contents)
        found = Contents({name: after.hashes.get(name, "") for name in own.hashes}, own.exact)
        wrong.append(unlike(own, found))
    lost = {stage for one in references for stage in one.stages} - _stages(folder)
    wrong.append(f"lost stages: {', '.join(sorted(lost))}" if lost else "")
    return Case.of(f"{' beside '.join(names)}, {number}", endings, wrong)


def _stages(folder: Path) -> set[str]:
    record = folder / RUN / RECORDS[0]
    return set(json.loads(record.read_text(encoding="utf-8"))["stages"]) if record.is_file() else set()


def _but_order(found: Contents) -> Contents:
    kept = {name: hash_ for name, hash_ in found.hashes.items() if name not in {f"{RUN}/{one}" for one in IN_TURN}}
    return Contents(kept, found.exact & kept.keys())
