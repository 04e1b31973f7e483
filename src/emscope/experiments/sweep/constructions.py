"""Constructions of a sweep measured, each a shard of its own: its figures and directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from emscope import parts
from emscope.behaviour.questions import ids_of
from emscope.errors import UserError
from emscope.executors.tasks import Held, Shard, Task, carried_out
from emscope.experiments.openings import OpenRun
from emscope.experiments.sweep.examples import Source, base_prompts, examples_of, load_sources
from emscope.experiments.sweep.result import (
    BestBlock,
    ExampleCounts,
    Interval,
    IntervalByBlock,
    PromptOnly,
    SweptConstruction,
)
from emscope.plain import fitted, plain
from emscope.residual.contrasts import Examples
from emscope.residual.directions import Construction, Directions, Method
from emscope.residual.sweep import SweepOptions, Swept, prompt_leak, prompt_only, sweep
from emscope.statistics.separation import BoundedByBlock

KEPT = "figures kept of a stopped sweep"
ARRAYS = ("vectors", "positive_mean", "negative_mean", "deviation")
"""What directions consist of."""


@dataclass(frozen=True)
class SweepSources:
    """What every organism of a run read and said, as each process that measures constructions needs it once."""

    run: OpenRun
    resampled: bool

    def make(self) -> dict[str, Source]:
        """Read it from the run's folder."""
        return load_sources(self.run.make(), resampled=self.resampled)

    def crowded(self, others: Sequence[Any]) -> bool:
        """Say that there is room: these are pooled activations."""
        return False


@dataclass(frozen=True)
class ConstructionWork:
    """A construction to measure.

    Attributes:
        sources: where its examples are.
        contrast: model, control or response.
        pooling: last, prompt, response or token.
        method: diff-in-means or probe; None asks what knowing only the prompt is worth.
        options: how it is swept.
    """

    sources: SweepSources
    contrast: str
    pooling: str
    method: Method | None
    options: SweepOptions

    def split(self, held: Held) -> tuple[Examples, Examples]:
        """Return the examples of training and of test questions."""
        lab, sources = held.get(self.sources.run), held.get(self.sources)
        every = examples_of(sources, self.contrast, self.pooling, lab.config.model)
        return every.on(ids_of(lab.train_questions)), every.on(ids_of(lab.test_questions))


def measured(work: ConstructionWork, held: Held) -> parts.Part:
    """Fit a method at every block on training examples, and score it on test examples; or tell why it cannot be."""
    train, test = work.split(held)
    if work.method is None:
        found = _prompt_only(train, test, base_prompts(held.get(work.sources)), work.options)
        return parts.Part(plain(found), rows=1)
    try:
        swept = sweep(train, test, work.method, work.options)
    except UserError as reason:  # such as questions that cannot be halved with both sides in each half
        return parts.Part(str(reason), rows=1)
    directions = swept.directions
    arrays = {name: getattr(directions, name) for name in ARRAYS}
    figures = plain(_figures(swept, train, test))
    return parts.Part([figures, list(directions.blocks), asdict(directions.construction)], arrays, rows=1)


def measured_constructions(
    works: Sequence[ConstructionWork], held: Held
) -> list[tuple[SweptConstruction, Directions] | str]:
    """Return the figures and directions of every construction, or why it has none; each is a shard of its own."""
    found: list[tuple[SweptConstruction, Directions] | str] = []
    for part in carried_out(_task("constructions", works), held):
        if isinstance(part.value, str):
            found.append(part.value)
            continue
        figures, blocks, construction = part.value
        arrays = {name: part.arrays[name] for name in ARRAYS}
        directions = Directions(**arrays, blocks=tuple(blocks), construction=Construction(**construction))
        found.append((fitted(SweptConstruction, figures, KEPT), directions))
    return found


def measured_prompt_only(works: Sequence[ConstructionWork], held: Held) -> list[PromptOnly]:
    """Return what a probe reaches on the base's prompts alone, for constructions without a method."""
    return [fitted(PromptOnly, part.value, KEPT) for part in carried_out(_task("prompts alone", works), held)]


def _task(name: str, works: Sequence[ConstructionWork]) -> Task:
    return Task(name, measured, [Shard(work, rows=1) for work in works], "constructions")


def _figures(swept: Swept, train: Examples, test: Examples) -> SweptConstruction:
    held_out = swept.held_out
    return SweptConstruction(
        construction=swept.directions.construction,
        n=ExampleCounts(train.counts(), test.counts()),
        best=_best_block(swept),
        auroc=_by_block(held_out.auroc),
        accuracy=_by_block(held_out.accuracy),
        d_prime=_by_block(held_out.d_prime),
        train_d_prime=swept.train_d_prime.tolist(),
        split_half_cosine=swept.split_half_cosine.tolist(),
        null_accuracy=swept.null_accuracy.mean(axis=0).tolist(),
        penalties=None if swept.penalties is None else swept.penalties.tolist(),
    )


def _best_block(swept: Swept) -> BestBlock:
    best, held_out = swept.best, swept.held_out
    null = swept.null_accuracy[:, best]
    return BestBlock(
        block=swept.directions.blocks[best],
        auroc=_interval(held_out.auroc, best),
        accuracy=_interval(held_out.accuracy, best),
        d_prime=_interval(held_out.d_prime, best),
        train_d_prime=float(swept.train_d_prime[best]),
        split_half_cosine=float(swept.split_half_cosine[best]),
        null_accuracy=float(null.mean()),
        null_range=np.quantile(null, (0.025, 0.975)).tolist(),
        p_value=swept.p_value,
    )


def _interval(bounded: BoundedByBlock, index: int) -> Interval:
    return Interval(float(bounded.value[index]), float(bounded.low[index]), float(bounded.high[index]))


def _by_block(bounded: BoundedByBlock) -> IntervalByBlock:
    return IntervalByBlock(bounded.value.tolist(), bounded.low.tolist(), bounded.high.tolist())


def _prompt_only(
    train: Examples, test: Examples, prompts: Mapping[str, np.ndarray], options: SweepOptions
) -> PromptOnly:
    """Return what a probe reaches on the base's prompts alone, each question a vector [n_blocks, d_model].

    The leak exists only where one organism gave all answers: two that answer the same questions share every prompt.
    """
    made = train.construction
    held_out = prompt_only(train, test, prompts, options)
    leak = prompt_leak((train, test), prompts, options).tolist() if made.positive == made.negative else None
    return PromptOnly(_by_block(held_out.auroc), _by_block(held_out.accuracy), _by_block(held_out.d_prime), leak)
