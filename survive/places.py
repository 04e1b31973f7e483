"""Runs that were moved, copied, linked or are named from elsewhere, and places that cannot be written to."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from survive.bench import Bench, Case, Reference, not_done, unlike
from survive.comparing import contents
from survive.processes import run, start
from survive.settings import RUN
from survive.workers import Task

NOTHING_MADE = "0 stages made"
ANSWERS, JUDGED = f"{RUN}/responses/misaligned.parquet", "judged.parquet"
HALF = 0.6  # of a run's time


def plan_places(bench: Bench, only: Sequence[str]) -> list[Task]:
    """Return a task for every place."""
    reference = bench.reference("run")
    tasks: list[Task] = [
        partial(finished_run_elsewhere, how, bench.scratch, bench.finished, reference) for how in ELSEWHERE
    ]
    tasks += [partial(half_a_run_elsewhere, how, bench.scratch, reference) for how in ELSEWHERE]
    readers = _reading_commands(bench)
    tasks += [partial(read_only, words, n, bench.scratch, bench.finished) for n, words in enumerate(readers)]
    return tasks


Named = tuple[tuple[str, ...], Path]
"""How a run is named: the words for --out, and the working directory."""


def _moved(folder: Path) -> Named:
    (folder / RUN).rename(folder / "elsewhere")
    return ("elsewhere",), folder


def _copied(folder: Path) -> Named:
    shutil.copytree(folder / RUN, folder / "copy")
    return ("copy",), folder


def _linked(folder: Path) -> Named:
    (folder / "link").symlink_to(folder / RUN)
    return ("link",), folder


def _from_elsewhere(folder: Path) -> Named:
    (folder / "other").mkdir()
    return (str(folder / RUN),), folder / "other"


def _from_below(folder: Path) -> Named:
    (folder / "other").mkdir()
    return (f"../{RUN}",), folder / "other"


ELSEWHERE: dict[str, Callable[[Path], Named]] = {
    "moved": _moved,
    "copied": _copied,
    "through a symlink": _linked,
    "by its whole path from another folder": _from_elsewhere,
    "by a relative path from another folder": _from_below,
}


def finished_run_elsewhere(how: str, scratch: Path, finished: Path, reference: Reference) -> Case:
    """Give the command of a finished run in another place: nothing is made."""
    folder = scratch / "places" / f"finished-{how.replace(' ', '-')}"
    folder.mkdir(parents=True)
    shutil.copytree(finished, folder / RUN)
    before = contents(folder / RUN)
    (name,), at = ELSEWHERE[how](folder)
    ending = run(_with_out(reference, name), folder, at=at)
    made = "" if NOTHING_MADE in ending.printed else f"makes stages again: {ending.printed[-200:]}"
    return Case.of(f"a finished run, {how}", [ending], [not_done(ending), made, unlike(before, contents(at / name))])


def half_a_run_elsewhere(how: str, scratch: Path, reference: Reference) -> Case:
    """Kill a run, go on in another place: the same bytes."""
    folder = scratch / "places" / f"half-{how.replace(' ', '-')}"
    folder.mkdir(parents=True)
    (folder / RUN).mkdir()
    child = start(reference.setting.words, folder)
    child.signal_at(HALF * reference.seconds)
    child.wait()
    (name,), at = ELSEWHERE[how](folder)
    ending = run(_with_out(reference, name), folder, at=at)
    found = contents(at / name)
    wanted = type(found)(
        {file.removeprefix(f"{RUN}/"): form for file, form in reference.contents.hashes.items()}, found.exact
    )
    return Case.of(f"half a run, {how}", [ending], [not_done(ending), unlike(wanted, found)])


def _with_out(reference: Reference, name: str) -> tuple[str, ...]:
    """Return the command line with another folder after --out."""
    words = list(reference.setting.words)
    words[words.index("--out") + 1] = name
    return tuple(words)


def _reading_commands(bench: Bench) -> list[tuple[str, ...]]:
    commands = [
        ("check", RUN),
        ("report", RUN),
        ("judge", "--compare", JUDGED, JUDGED),
        ("judge", "--responses", ANSWERS, "--out", f"{RUN}/new.parquet", "--judge", "mock"),
        *(bench.settings[name].words for name in ("run", "steer", "sweep", "induce", "bank", "train")),
    ]
    from emscope.commands.catalogue import COMMANDS

    return [words for words in commands if words[0] in COMMANDS]


def read_only(words: Sequence[str], number: int, scratch: Path, finished: Path) -> Case:
    """Give a command in a folder that cannot be written to: it works, or says so in one sentence."""
    folder = scratch / "places" / f"read-only-{number}"
    folder.mkdir(parents=True)
    shutil.copytree(finished, folder / RUN)
    run(("judge", "--responses", ANSWERS, "--out", JUDGED, "--judge", "mock"), folder)
    before = contents(folder)
    with frozen(folder) as is_frozen:
        ending = run(words, folder)
    if not is_frozen:
        return Case(f"{' '.join(words[:2])} in a read-only place", True, (), "nothing can be mounted here")
    sentence = "" if ending.code in (0, 1) or ending.last_line.startswith("emscope: ") else f"says {ending.last_line!r}"
    trace = "a traceback" if "Traceback" in ending.said else ""
    return Case.of(
        f"{' '.join(words[:2])} in a read-only place", [ending], [sentence, trace, unlike(before, contents(folder))]
    )


@contextmanager
def frozen(folder: Path) -> Iterator[bool]:
    """Let nobody write to a folder, root neither; says whether that was possible."""
    bound = subprocess.run(["mount", "--bind", str(folder), str(folder)], capture_output=True, check=False)
    if bound.returncode:
        yield False
        return
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", str(folder)], check=True)
        yield True
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)
