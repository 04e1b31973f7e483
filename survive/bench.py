"""What every family of faults shares: the tiny world, the server, and what commands leave undisturbed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survive.comparing import RECORDS, Contents, contents
from survive.moments import count_operations
from survive.processes import Before, Ending, run
from survive.server import Served
from survive.settings import RUN, Setting, settings
from survive.world import World, learn_imports, tell_imports


@dataclass(frozen=True)
class Reference:
    """What a command leaves when nothing disturbs it.

    Attributes:
        setting: the command.
        contents: what it left.
        seconds: how long it took.
        operations: how many file operations it made.
        varies: files that differ between two undisturbed runs; nothing may.
        stages: names of the stages in the run's record.
    """

    setting: Setting
    contents: Contents
    seconds: float
    operations: int
    varies: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()


def outputs_of(folder: Path, setting: Setting) -> Contents:
    """Return what a command left of its own outputs."""
    whole = contents(folder)
    kept = {
        name: form
        for name, form in whole.hashes.items()
        if any(name == output or name.startswith(f"{output}/") for output in setting.outputs)
    }
    return Contents(kept, whole.exact & kept.keys())


def make_reference(setting: Setting, folder: Path, server: Served | None, *, twice: bool = True) -> Reference:
    """Run a command undisturbed, twice: what differs between the two can be asked of nothing.

    Raises:
        RuntimeError: it fails.
    """
    counted, imported = (folder.parent / f"{folder.name}.{what}" for what in ("operations", "imports"))
    found: list[Contents] = []
    seconds = 0.0
    for number in range(1 + twice):
        place = folder / str(number)
        setting.prepare(place)

        def before(place: Path) -> None:
            count_operations(counted)(place)
            tell_imports(imported)

        ending = run(setting.words, place, before, setting.environment(server, f"reference-{setting.name}-{number}"))
        if ending.code:
            raise RuntimeError(f"{setting.name} fails undisturbed: {ending.said[-2000:]}")
        learn_imports(imported)
        found.append(outputs_of(place, setting))
        seconds = ending.seconds
    varies = tuple(found[0].differences(found[-1]))
    operations = int(counted.read_text(encoding="utf-8"))
    record = place / RUN / RECORDS[0]
    stages = tuple(json.loads(record.read_bytes())["stages"]) if record.is_file() else ()
    return Reference(setting, found[0], seconds, operations, varies, stages)


def go_on(setting: Setting, folder: Path, server: Served | None, key: str, before: Before | None = None) -> Ending:
    """Give a command that was disturbed once more."""
    environment = setting.environment(server, key)
    if setting.resume:
        ending = run((*setting.words, *setting.resume), folder, before, environment)
        if "There is no checkpoint" not in ending.said:
            return ending
    return run(setting.words, folder, before, environment)


@dataclass
class Bench:
    """What every family works with.

    Attributes:
        world: the tiny world.
        server: the judge on loopback.
        scratch: where commands work.
        kills: kills of each main setting; the other families scale with it.
        settings: every command by name.
    """

    world: World
    server: Served
    scratch: Path
    kills: int
    settings: dict[str, Setting] = field(default_factory=dict)
    _references: dict[str, Reference] = field(default_factory=dict)

    @classmethod
    def make(cls, world: World, server: Served, scratch: Path, kills: int) -> Bench:
        """Make the finished run that experiments work on, as the first reference."""
        bench = cls(world, server, scratch, kills)
        bench.settings = settings(world, bench.finished)
        bench.reference("run")
        return bench

    @property
    def finished(self) -> Path:
        """The folder of a finished run; it is copied, never worked in."""
        return self.scratch / "references" / "run" / "1" / RUN

    def reference(self, name: str) -> Reference:
        """Return what a command leaves undisturbed; made when it is first asked for."""
        if name not in self._references:
            folder = self.scratch / "references" / name
            folder.mkdir(parents=True)
            self._references[name] = make_reference(self.settings[name], folder, self.server)
        return self._references[name]

    def few(self, most: int) -> int:
        """Return how many cases a family takes: `most` of them with 50 kills, fewer with fewer, at least two."""
        return max(2, min(most, most * self.kills // 50))


@dataclass(frozen=True)
class Case:
    """One fault that is no kill, and what came of it.

    Attributes:
        name: what was done to which command.
        survived: whether what was promised held.
        codes: exit codes of the commands, in order.
        said: the sentence that the disturbed command ended with.
        why: where it did not survive, what was wrong.
    """

    name: str
    survived: bool
    codes: tuple[int, ...]
    said: str = ""
    why: str = ""

    @classmethod
    def of(cls, name: str, endings: Sequence[Ending], wrong: Sequence[str]) -> Case:
        """Return a case from how its commands ended and what was wrong, '' for what was right."""
        wrong = [*filter(None, wrong), *(f"exit {ending.code}" for ending in endings if ending.code not in (0, 1, 2))]
        said = next((ending.last_line for ending in endings if ending.code == EXIT_USER), "")
        return cls(name, not wrong, tuple(ending.code for ending in endings), said, "; ".join(wrong))


EXIT_USER = 2


def unlike(reference: Contents, found: Contents) -> str:
    """Return what differs, in words; '' where nothing does."""
    names = reference.differences(found)
    return f"differs: {', '.join(names[:5])}" if names else ""


def not_done(ending: Ending) -> str:
    """Return how a command failed that should have succeeded, in words; '' where it did."""
    return "" if ending.code == 0 else f"exit {ending.code}: {ending.last_line}"


def not_said(ending: Ending, words: str, *, or_done: bool = False) -> str:
    """Return what is wrong with the end of a command that should say in one sentence that it cannot go on."""
    if or_done and ending.code == 0:
        return ""
    if ending.code != EXIT_USER:
        return f"exit {ending.code}: {ending.last_line}"
    if "Traceback" in ending.said or words not in ending.last_line:
        return f"does not say {words!r}: {ending.last_line}"
    return ""


def tell_cases(bench: Bench, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the figures of a family of cases."""
    return {
        "all_survived": all(case.survived for case in cases),
        "survived": sum(case.survived for case in cases),
        "of": len(cases),
        "cases": [vars(case) for case in cases],
    }
