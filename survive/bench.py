"""What every family of faults shares: the tiny world, the server, and what commands leave undisturbed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survive.comparing import Contents, contents
from survive.moments import count_operations
from survive.processes import run
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
    """

    setting: Setting
    contents: Contents
    seconds: float
    operations: int
    varies: tuple[str, ...] = ()


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
    return Reference(setting, found[0], seconds, int(counted.read_text(encoding="utf-8")), varies)


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


def tell_cases(bench: Bench, cases: Sequence[Case]) -> dict[str, Any]:
    """Return the figures of a family of cases."""
    return {
        "all_survived": all(case.survived for case in cases),
        "survived": sum(case.survived for case in cases),
        "of": len(cases),
        "cases": [vars(case) for case in cases],
    }
