"""`emscope bench`: how far the hot loops are from what this machine can do."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import ClassVar

from emscope.commands.bench_tables import compared, shown
from emscope.commands.common import NOTHING_KEPT, changed_flags
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import check_out
from emscope.errors import UserError
from emscope.organisms.device import choose_placement
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.loading import LoadSettings
from emscope.organisms.models import Organism
from emscope.pipeline.roofline.loops import LoopSizes, sizes_for
from emscope.pipeline.roofline.machine import SECONDS
from emscope.pipeline.roofline.measure import LOOPS, measure_limits
from emscope.pipeline.roofline.report import LimitsReport
from emscope.pipeline.roofline.shape import shape_of
from emscope.pipeline.roofline.subject import random_organism


@dataclass(frozen=True)
class SizeFlags:
    """How much each loop does; none given fits the device and the model.

    Attributes:
        prompts: prompts that capture reads.
        token_budget: tokens in one of its forward passes, padding included.
        answers: answers that are sampled, without and with a direction taken out.
        new_tokens: longest answer, in tokens.
        batch_size: answers sampled side by side.
        judged: answers that are judged.
        steps: training steps.
        train_batch: conversations in a training step.
    """

    prompts: int | None = None
    token_budget: int | None = None
    answers: int | None = None
    new_tokens: int | None = None
    batch_size: int | None = None
    judged: int | None = None
    steps: int | None = None
    train_batch: int | None = None

    def on(self, sizes: LoopSizes) -> LoopSizes:
        """Return sizes with those that were given."""
        given = {flag.name: getattr(self, flag.name) for flag in fields(self)}
        return replace(sizes, **{name: value for name, value in given.items() if value is not None})


@dataclass(frozen=True)
class BenchMachine:
    """Measure matrix products, memory bandwidth and the hot loops of a run on this machine, and compare them.

    Attributes:
        model: a model; its name is in the report only if it is the embedded one.
        random: a model with random weights instead, which needs no download: the shape tiny, 1b, 7b, 8b, 70b, 8x7b or
            30b-a3b, or a folder with a config.json.
        out: a .json file for the report, with nothing in it that tells whose machine it is.
        compare: a report to show beside this machine's figures; two reports are compared, and nothing is measured.
        quick: a quarter of the work, measured twice.
        repeats: how often everything is measured, in turn; none given is 3, or 2 if quick.
        loops: which loops.
        sizes: how much each loop does.
        load: base, device and dtype.
    """

    stopped: ClassVar[str] = NOTHING_KEPT

    model: str = EMBEDDED_ALIAS
    random: str | None = None
    out: Path | None = None
    compare: tuple[Path, ...] = ()
    quick: bool = False
    repeats: int | None = None
    loops: tuple[str, ...] = LOOPS
    sizes: SizeFlags = field(default_factory=SizeFlags)
    load: LoadSettings = field(default_factory=LoadSettings)

    def execute(self) -> Outcome:
        """Measure or read, and compare."""
        self._check()
        others = [LimitsReport.read(path) for path in self.compare]
        if len(others) == 2:
            return Outcome(compared(others[1], others[0]), {"reports": others})
        report = self._measure()
        text = shown(report)
        if others:
            text += "\n" + compared(report, others[0])
        if self.out is None:
            return Outcome(text, report)
        report.write(self.out)
        return Outcome(text, report, [self.out])

    def _check(self) -> None:
        """Refuse what makes no sense before anything is loaded or measured."""
        if len(self.compare) > 2:
            raise UserError("Two reports can be compared, or one with this machine: --compare takes one or two files.")
        odd = changed_flags(self, ["model", "random", "out", "quick", "repeats", "loops", "sizes", "load"])
        if len(self.compare) == 2 and odd:
            raise UserError(f"With two reports to compare nothing is measured: leave out {odd}.")
        if self.random is not None and changed_flags(self, ["model"]):
            raise UserError("--random is a model of its own: leave out --model.")
        if self.load.is_spread:
            raise UserError("One device is measured: leave out --device-map and --tensor-parallel.")
        if self.repeats is not None and self.repeats < 1:
            raise UserError(f"--repeats must be 1 or more, not {self.repeats}.")
        if not self.loops:
            raise UserError(f"--loops names none: name some of {', '.join(LOOPS)}.")
        if self.out is not None:
            check_out(self.out, (".json",), [self.model, *self.compare])

    def _measure(self) -> LimitsReport:
        """Load or make the model, and measure."""
        organism = self._organism()
        sizes = sizes_for(organism.placement.device, shape_of(organism.model), quick=self.quick)
        repeats = self.repeats or (2 if self.quick else 3)
        seconds = SECONDS / 3 if self.quick else SECONDS
        return measure_limits(organism, self.sizes.on(sizes), repeats=repeats, only=self.loops, seconds=seconds)

    def _organism(self) -> Organism:
        if self.random is None:
            return self.load.load(self.model)
        return random_organism(self.random, choose_placement(self.load.device, self.load.dtype))


COMMAND = BenchMachine
