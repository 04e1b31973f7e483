"""Measures a machine and the hot loops on it in turn, and says how far apart they are."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Sequence

import torch

from emscope import progress
from emscope.errors import UserError, did_you_mean
from emscope.organisms.architecture import family_of
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.lineage import versions
from emscope.organisms.lora import with_adapter
from emscope.organisms.memory import give_memory_back
from emscope.organisms.models import Organism
from emscope.organisms.settings import TrainSettings
from emscope.pipeline.roofline.loops import Loop, LoopSizes, Pace, hot_loops
from emscope.pipeline.roofline.machine import ROWS, SECONDS, PeakMemory, bandwidths, product_rates, this_machine
from emscope.pipeline.roofline.report import LimitsReport, LoopFigures, Repeats, gemm_roof
from emscope.pipeline.roofline.shape import ModelShape, shape_of

logger = logging.getLogger(__name__)

LOOPS = ("capture", "training", "sampling", "judging", "ablation")
NO_MEMORY = ("not enough memory", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "MPS backend out of memory")
"""What a RuntimeError says where there is not enough of it."""
LESS = {
    "capture": "lower token_budget",
    "training": "lower train_batch",
    "sampling": "lower batch_size or new_tokens",
    "judging": "lower judged, or take a smaller model",
    "ablation": "lower batch_size or new_tokens",
}
"""What to lower where a loop needs more memory than there is."""


def measure_limits(
    organism: Organism,
    sizes: LoopSizes,
    *,
    repeats: int = 3,
    only: Sequence[str] = LOOPS,
    rows: Sequence[int] = ROWS,
    seconds: float = SECONDS,
) -> LimitsReport:
    """Measure products, bandwidth and the hot loops `repeats` times in turn, after one run of each that is not counted.

    `rows` and `seconds` say at which rows, and for how long each, products are measured. A loop that needs more memory
    than there is, or that this placement cannot run, is left out and said.

    Raises:
        UserError: an unknown loop, or none could be measured.
    """
    for name in only:
        if name not in LOOPS:
            raise UserError(f"There is no loop {name!r}.{did_you_mean(name, LOOPS)} Loops are {', '.join(LOOPS)}.")
    rounds = _Rounds(organism, [loop for loop in hot_loops(organism, sizes) if loop.name in only])
    with progress.task("measuring", repeats + 1, "rounds") as advance:
        for number in range(repeats + 1):
            rounds.take(rows, seconds, counted=number > 0)
            advance(1)
    if not rounds.paces:
        raise UserError(f"No loop could be measured: {'; '.join(rounds.not_measured.values())}.")
    return rounds.report(sizes, repeats)


class _Rounds:
    """The figures of all rounds so far."""

    def __init__(self, organism: Organism, loops: list[Loop]) -> None:
        self.organism, self.loops, self.shape = organism, loops, shape_of(organism.model)
        self.paces: dict[str, list[Pace]] = defaultdict(list)
        self.peaks = {loop.name: PeakMemory(organism.placement.device) for loop in loops}
        self.gemm: dict[str, list[float]] = defaultdict(list)
        self.bandwidth: dict[str, list[float]] = defaultdict(list)
        self.not_measured: dict[str, str] = {}

    def take(self, rows: Sequence[int], seconds: float, *, counted: bool) -> None:
        """Measure everything once; the first time only compiles kernels."""
        if counted:
            for name, rate in product_rates(self.organism, rows, seconds).items():
                self.gemm[name].append(rate)
            for name, rate in bandwidths(self.organism.placement.device).items():
                self.bandwidth[name].append(rate)
            give_memory_back()
        for loop in self.loops:
            if loop.name not in self.not_measured:
                self._run(loop, counted)

    def _run(self, loop: Loop, counted: bool) -> None:
        """Run a loop once, and leave it out from now on if it cannot be."""
        place = self.organism.placement
        if loop.trains and place.for_training() != place:
            self.not_measured[loop.name] = f"training: {place.for_training().reason}"
            return
        try:
            with self.peaks[loop.name].measured():
                pace = loop.run()
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
            self._leave_out(loop)
            return
        if counted:
            self.paces[loop.name].append(pace)

    def _leave_out(self, loop: Loop) -> None:
        """Say that a loop needs more memory than there is, and give back what it took."""
        give_memory_back()
        self.paces.pop(loop.name, None)
        self.not_measured[loop.name] = f"{loop.name} needs more memory than there is: {LESS[loop.name]}"
        logger.warning("%s.", self.not_measured[loop.name])

    def report(self, sizes: LoopSizes, repeats: int) -> LimitsReport:
        """Return what was found."""
        gemm = {name: Repeats.of(rates) for name, rates in self.gemm.items()}
        bandwidth = {name: Repeats.of(rates) for name, rates in self.bandwidth.items()}
        place = self.organism.placement
        fastest = max(rate.median for rate in bandwidth.values())
        loops = []
        for loop in self.loops:
            if loop.name in self.paces:
                loops.append(self._figures(loop, gemm, fastest))
        return LimitsReport(
            this_machine(place.device),
            versions(),
            time.strftime("%Y-%m-%d"),
            public_name(self.organism, self.shape),
            place.dtype_name,
            self.shape,
            sizes,
            repeats,
            gemm,
            bandwidth,
            tuple(loops),
            self.not_measured,
        )

    def _figures(self, loop: Loop, gemm: dict[str, Repeats], bandwidth: float) -> LoopFigures:
        """Return a loop's figures beside the machine's."""
        paces, dtype = self.paces[loop.name], self.organism.placement.dtype
        pace = sorted(paces, key=lambda pace: pace.seconds)[len(paces) // 2]
        seconds = Repeats.of([pace.seconds for pace in paces])
        if loop.trains:
            flop = self.shape.training_flop(pace.work, adapter_weights(self.organism))
            n_bytes = self.shape.training_bytes(pace.work, dtype.itemsize)
        else:
            flop = self.shape.forward_flop(pace.work)
            n_bytes = self.shape.forward_bytes(pace.work, dtype.itemsize)
        name = self.organism.placement.dtype_name
        a_pass = pace.run_tokens / pace.work.passes
        arithmetic, memory = flop / gemm_roof(gemm, name), n_bytes / bandwidth
        return LoopFigures(
            loop.name,
            loop.unit,
            Repeats.of([pace.units / pace.seconds for pace in paces]),
            seconds,
            pace.units,
            flop,
            n_bytes,
            pace.work.passes,
            a_pass,
            1 - pace.work.tokens / pace.run_tokens,
            arithmetic / pace.seconds,
            flop / gemm_roof(gemm, name, a_pass) / pace.seconds,
            memory / pace.seconds,
            "arithmetic" if arithmetic >= memory else "memory",
            max(arithmetic, memory) / pace.seconds,
            self.peaks[loop.name].n_bytes,
        )


def _is_memory(error: BaseException) -> bool:
    """Say whether an error is about memory; a CPU's is a RuntimeError like any other."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(words in str(error) for words in NO_MEMORY)


def adapter_weights(organism: Organism) -> int:
    """Return how many weights an adapter of the default settings has on this model."""
    model = with_adapter(organism.model, TrainSettings())
    try:
        return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    finally:
        model.unload().eval().requires_grad_(False)


def public_name(organism: Organism, shape: ModelShape) -> str:
    """Return a model's name where it is one of ours, else its family and size: a path or hub name could be private."""
    name = organism.source.name
    if name == EMBEDDED_ALIAS or organism.source.location == "random":
        return name
    return f"{family_of(organism.model.config)}, {shape.n_weights / 1e9:.2f} billion weights"
