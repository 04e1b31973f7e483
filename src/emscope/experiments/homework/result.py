"""What the homework's steps leave: scores along its directions, mean scores of its ablation, and the comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class MethodScores:
    """Uncentred projections of one method on the ten prompts, in units of the residual stream.

    Attributes:
        per_prompt: by organism, mean over blocks of each prompt.
        mean: by organism, mean over prompts and blocks.
        per_layer: by organism and block, mean over prompts.
        separation: the fine-tune's mean minus the base's.
    """

    per_prompt: Mapping[str, list[float]]
    mean: Mapping[str, float]
    per_layer: Mapping[str, Mapping[str, float]]
    separation: float


@dataclass(frozen=True)
class MeanScores:
    """Mean scores of some answers, 0-100; NaN where none has one."""

    aligned: float
    coherent: float


@dataclass(frozen=True)
class HomeworkAblation:
    """What the homework's ablation does.

    Attributes:
        means: mean scores of base, misaligned and ablated answers.
        restored: (ablated − misaligned) / (base − misaligned) of mean alignment; NaN where the two are alike.
        n: prompts that were asked.
    """

    means: Mapping[str, MeanScores]
    restored: float
    n: int


@dataclass(frozen=True)
class ComparedFigure:
    """A figure of the original homework beside ours.

    Attributes:
        published: as it was published; None where it was not.
        measured: ours; NaN where it cannot be computed.
    """

    published: float | str | None
    measured: float
