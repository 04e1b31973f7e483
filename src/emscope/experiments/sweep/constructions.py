"""One construction of a sweep measured: its figures and directions, kept if the experiment is stopped later."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from typing import Any

import numpy as np

from emscope import parts
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


def measure_construction(
    train: Examples, test: Examples, method: Method, options: SweepOptions
) -> tuple[SweptConstruction, Directions]:
    """Fit a method at every block on training examples, and score it on test examples.

    Raises:
        UserError: the questions cannot be halved with both sides in each half.
    """

    def inputs() -> Any:
        sides = []
        for side in (train, test):
            sides.append(vars(side) | {"construction": asdict(side.construction)})
        return [sides, method, asdict(options)]

    def make() -> tuple[SweptConstruction, Directions]:
        swept = sweep(train, test, method, options)
        return _figures(swept, train, test), swept.directions

    return parts.kept("swept", inputs, make, _to_part, _from_part)


def _to_part(measured: tuple[SweptConstruction, Directions]) -> parts.Part:
    figures, directions = measured
    arrays = {name: getattr(directions, name) for name in ARRAYS}
    return parts.Part([plain(figures), list(directions.blocks), asdict(directions.construction)], arrays)


def _from_part(part: parts.Part) -> tuple[SweptConstruction, Directions]:
    figures, blocks, construction = part.value
    directions = Directions(**part.arrays, blocks=tuple(blocks), construction=Construction(**construction))
    return fitted(SweptConstruction, figures, KEPT), directions


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


def measure_prompt_only(
    train: Examples, test: Examples, prompts: Mapping[str, np.ndarray], options: SweepOptions
) -> PromptOnly:
    """Return what a probe reaches on the base's prompts alone, each question a vector [n_blocks, d_model].

    The leak exists only where one organism gave all answers: two that answer the same questions share every prompt.
    """

    def make() -> Any:
        made = train.construction
        held_out = prompt_only(train, test, prompts, options)
        leak = prompt_leak((train, test), prompts, options).tolist() if made.positive == made.negative else None
        figures = (_by_block(held_out.auroc), _by_block(held_out.accuracy), _by_block(held_out.d_prime))
        return plain(PromptOnly(*figures, leak))

    figures = parts.kept_value("prompt only", partial(asdict, train.construction), make)
    return fitted(PromptOnly, figures, KEPT)
