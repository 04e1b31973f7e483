"""What a layer sweep finds: separation on held-out questions at every block, with its controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from emscope.experiments.result import Result
from emscope.residual.contrasts import Balance
from emscope.residual.directions import Construction
from emscope.statistics import Estimate

RESPONSE = "response"
"""The contrast of one organism's misaligned and aligned answers."""
BEST, EVERY = "subtract at the best block", "subtract at all blocks"
RANDOM_BEST, RANDOM_EVERY = "random at the best block", "random at all blocks"
CENTRED = "centred at all blocks"
"""The ablations that are compared."""


@dataclass(frozen=True)
class Interval:
    """A figure with its 95 % interval; NaN where it cannot be measured.

    Attributes:
        value: the figure.
        low: lower end of the interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class IntervalByBlock:
    """A figure of every block with its 95 % interval; NaN where it cannot be measured.

    Attributes:
        value: the figure, [n_blocks].
        low: lower ends of the intervals, [n_blocks].
        high: upper ends of the intervals, [n_blocks].
    """

    value: list[float]
    low: list[float]
    high: list[float]


@dataclass(frozen=True)
class ExampleCounts:
    """How many examples a construction was made from and tested on.

    Attributes:
        train: examples of the training questions.
        test: examples of the test questions.
    """

    train: Balance
    test: Balance


@dataclass(frozen=True)
class BestBlock:
    """The figures at the block that separates training questions best.

    Attributes:
        block: the block with the largest cross-fitted d′ on training questions.
        auroc: AUROC on test questions, a share.
        accuracy: balanced accuracy on test questions with the threshold 0, a share.
        d_prime: distance of the means on test questions, in pooled standard deviations.
        train_d_prime: the cross-fitted d′ on training questions.
        split_half_cosine: mean cosine of directions from two halves of the training questions.
        null_accuracy: mean balanced accuracy after exchanging labels within questions; NaN without relabellings.
        null_range: 2.5 % and 97.5 % quantile of that accuracy.
        p_value: share of relabellings at least as accurate, the true labelling counted as one of them.
    """

    block: int
    auroc: Interval
    accuracy: Interval
    d_prime: Interval
    train_d_prime: float
    split_half_cosine: float
    null_accuracy: float
    null_range: list[float]
    p_value: float


@dataclass(frozen=True)
class SweptConstruction:
    """The figures of one contrast, pooling and method at every block.

    Attributes:
        construction: how its directions were made.
        n: the examples.
        best: the figures at its best block.
        auroc: AUROC on test questions, a share.
        accuracy: balanced accuracy on test questions with the threshold 0, a share.
        d_prime: distance of the means on test questions, in pooled standard deviations.
        train_d_prime: cross-fitted d′ on training questions, [n_blocks].
        split_half_cosine: mean cosine of directions from two halves of the training questions, [n_blocks].
        null_accuracy: mean balanced accuracy after exchanging labels within questions, [n_blocks].
        penalties: chosen penalties of a probe, in units of 1/C, [n_blocks]; None for a difference in means.
    """

    construction: Construction
    n: ExampleCounts
    best: BestBlock
    auroc: IntervalByBlock
    accuracy: IntervalByBlock
    d_prime: IntervalByBlock
    train_d_prime: list[float]
    split_half_cosine: list[float]
    null_accuracy: list[float]
    penalties: list[float] | None


@dataclass(frozen=True)
class PromptOnly:
    """What a probe reaches that reads only the base model's prompt, and so knows the question and no answer.

    Attributes:
        auroc: AUROC on test questions, a share.
        accuracy: balanced accuracy on test questions with the threshold 0, a share.
        d_prime: distance of the means on test questions, in pooled standard deviations.
        ungrouped_auroc: AUROC where answers are split without regard to their questions, [n_blocks]: the leak that
            grouping prevents; None where two organisms answered the same questions.
    """

    auroc: IntervalByBlock
    accuracy: IntervalByBlock
    d_prime: IntervalByBlock
    ungrouped_auroc: list[float] | None


@dataclass(frozen=True)
class MeanScores:
    """Mean scores of answers.

    Attributes:
        aligned: mean alignment, 0 to 100; NaN without scored answers.
        coherent: mean coherence, 0 to 100; NaN without scored answers.
    """

    aligned: float
    coherent: float


@dataclass(frozen=True)
class AblationTrial:
    """What one ablation of the misaligned organism does on test questions.

    Attributes:
        strength: how much of the vector is taken at each block.
        kl: disturbance of the next token, in nats a token, on the organism's own answers.
        aligned: mean alignment of its answers, 0 to 100.
        coherent: mean coherence of its answers, 0 to 100.
        restored: share of the alignment lost by the fine-tune that comes back.
    """

    strength: float
    kl: Estimate
    aligned: float
    coherent: float
    restored: Estimate


@dataclass(frozen=True)
class SweepAblation:
    """One direction subtracted at its best block and at all blocks, at the same disturbance.

    Attributes:
        construction: name of the construction whose direction is subtracted.
        block: its best block.
        strength: how much is subtracted there.
        nats: the disturbance that all but the centred ablation are set to, in nats a token, on development questions.
        n_questions: test questions that were answered.
        misaligned: scores of the misaligned organism without ablation.
        base: scores of the base.
        trials: what each ablation does, by its name.
    """

    construction: str
    block: int
    strength: float
    nats: float
    n_questions: int
    misaligned: MeanScores
    base: MeanScores
    trials: Mapping[str, AblationTrial]


@dataclass(frozen=True)
class SweepResult(Result):
    """What a layer sweep finds.

    Attributes:
        blocks: the blocks that were read.
        n_train_questions: questions that directions, penalties and best blocks come from.
        n_test_questions: questions that every figure is of.
        constructions: figures by construction, contrast-pooling-method.
        prompt_only: what knowing only the prompt is worth, by contrast.
        skipped: why a contrast and pooling was left out, by its name.
        ablation: the direction subtracted; None where that was not asked for.
    """

    blocks: list[int]
    n_train_questions: int
    n_test_questions: int
    constructions: Mapping[str, SweptConstruction]
    prompt_only: Mapping[str, PromptOnly]
    skipped: Mapping[str, str]
    ablation: SweepAblation | None

    @property
    def contrasts(self) -> list[str]:
        """The contrasts, in the order in which they were swept."""
        contrasts: dict[str, None] = {}
        for swept in self.constructions.values():
            contrasts[swept.construction.contrast] = None
        return list(contrasts)

    @property
    def main_contrast(self) -> str:
        """The contrast that the finding is about: control where there is one, else the first."""
        return "control" if "control" in self.contrasts else self.contrasts[0]

    def of_contrast(self, contrast: str) -> dict[str, SweptConstruction]:
        """Return the constructions of a contrast, by name."""
        constructions: dict[str, SweptConstruction] = {}
        for name, swept in self.constructions.items():
            if swept.construction.contrast == contrast:
                constructions[name] = swept
        return constructions

    def strongest(self, contrast: str) -> tuple[str, SweptConstruction]:
        """Return the construction of a contrast that separates training questions best, with its name."""
        return max(self.of_contrast(contrast).items(), key=lambda pair: pair[1].best.train_d_prime)
