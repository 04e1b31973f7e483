"""Measures a contrast and pooling at every block: what a method separates on questions left out, and its controls.

Everything is chosen on training questions: penalties and the best block by cross-fitting, in which each question is
scored by a direction made without it. The controls: directions from two halves of the questions (stability), the same
with labels exchanged within questions (permutation null), and a probe that reads only the base model's prompt.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

import numpy as np

from emscope.errors import UserError
from emscope.residual.contrasts import Examples, balanced, permuted
from emscope.residual.directions import Directions, Method
from emscope.residual.linear_fits import Scorers, fit_scorers, middle_and_spread, project, weighted_differences
from emscope.residual.probe import PENALTIES, choose_penalties
from emscope.statistics.folds import question_folds
from emscope.statistics.separation import (
    SeparationByBlock,
    accuracy_by_block,
    auroc_by_block,
    d_prime_by_block,
    separation_by_block,
)

METHODS: tuple[Method, ...] = ("diff-in-means", "probe")
MIN_SIDE, MIN_QUESTIONS = 4, 2


@dataclass(frozen=True)
class SweepOptions:
    """How a contrast is swept.

    Attributes:
        penalties: penalties a probe chooses from, in units of 1/C on standardised activations.
        folds: folds of questions for cross-fitting.
        halves: random halvings of the questions behind the stability.
        permutations: relabellings behind the null.
        seed: seed of all of them.
    """

    penalties: tuple[float, ...] = PENALTIES
    folds: int = 5
    halves: int = 10
    permutations: int = 50
    seed: int = 0


@dataclass(frozen=True)
class Swept:
    """The figures of one method at every block.

    Attributes:
        directions: the directions from all training questions.
        best: index of the block with the largest cross-fitted d′ on training questions.
        train_d_prime: that d′, [n_blocks].
        held_out: separation on test questions.
        split_half_cosine: mean cosine of directions from two halves of the training questions, [n_blocks].
        null_accuracy: balanced accuracy on test questions of each relabelling, [n_permutations, n_blocks].
        penalties: chosen penalties of a probe, [n_blocks]; None for a difference in means.
    """

    directions: Directions
    best: int
    train_d_prime: np.ndarray
    held_out: SeparationByBlock
    split_half_cosine: np.ndarray
    null_accuracy: np.ndarray
    penalties: np.ndarray | None

    @property
    def p_value(self) -> float:
        """Share of relabellings at least as accurate at the best block, the true labelling counted as one of them."""
        beaten = self.null_accuracy[:, self.best] >= self.held_out.accuracy.value[self.best]
        return float((1 + beaten.sum()) / (1 + len(beaten)))


def check_examples(train: Examples, test: Examples) -> None:
    """Refuse a contrast with too few examples.

    Raises:
        UserError: among training or test questions a side has fewer than four rows that count, or these are of one
            question.
    """
    for part, examples in (("training", train), ("test", test)):
        used = examples.weights() > 0
        n_positive, n_negative = int((used & (examples.labels == 1)).sum()), int((used & (examples.labels == 0)).sum())
        if min(n_positive, n_negative) < MIN_SIDE:
            raise UserError(
                f"The contrast {examples.construction.contrast!r} has {n_positive} misaligned and {n_negative} aligned "
                f"examples on {part} questions, and needs {MIN_SIDE} of each."
            )
        if len(np.unique(examples.questions[used])) < MIN_QUESTIONS:
            raise UserError(
                f"The contrast {examples.construction.contrast!r} has examples of a single one of the {part} "
                f"questions, and needs at least {MIN_QUESTIONS}."
            )


def sweep(train: Examples, test: Examples, method: Method, options: SweepOptions) -> Swept:
    """Measure one method at every block.

    Raises:
        UserError: too few examples on a side.
    """
    check_examples(train, test)
    crossed, penalties = cross_fit(train, method, options)
    train_d_prime = d_prime_by_block(crossed, train.labels, train.weights())
    chooser = np.random.default_rng(options.seed)
    halves = _halves(train, chooser, options.halves)
    relabelled, null_weights = [], []
    for _ in range(options.permutations):
        relabelled.append(permuted(train.labels, train.strata, chooser))
        null_weights.append(balanced(relabelled[-1], train.strata, train.sizes))
    labels = np.stack([train.labels, *([train.labels] * len(halves)), *relabelled])
    weights = np.stack([train.weights(), *halves, *null_weights])
    fits = fit_scorers(method, train.activations, labels, weights, penalties)
    scores = fits.scores(test.activations)
    units = fits.units[1 : 1 + len(halves)]
    return Swept(
        directions_of(train, fits, method, penalties),
        int(np.nan_to_num(train_d_prime, nan=-np.inf).argmax()),
        train_d_prime,
        separation_by_block(scores[0], test.labels, test.groups, test.weights(), options.seed),
        (units[0::2] * units[1::2]).sum(axis=-1).mean(axis=0),
        _null(test, scores[1 + len(halves) :], chooser),
        penalties if method == "probe" else None,
    )


def cross_fit(train: Examples, method: Method, options: SweepOptions) -> tuple[np.ndarray, np.ndarray]:
    """Return scores [n, n_blocks] of every question by directions made without it, and each block's penalty."""
    fold = question_folds(train.groups.tolist(), options.folds)
    if method == "probe":
        chosen = choose_penalties(train.activations, train.labels, train.weights(), fold, options.penalties)
        return chosen.logits, chosen.penalties
    numbers = np.unique(fold)
    weights = np.stack([train.weights(fold != number) for number in numbers])
    labels = np.tile(train.labels, (len(numbers), 1))
    penalties = np.zeros(train.activations.shape[1])
    scores = fit_scorers(method, train.activations, labels, weights, penalties).scores(train.activations)
    return scores[np.searchsorted(numbers, fold), np.arange(len(fold))], penalties


def _halves(train: Examples, chooser: np.random.Generator, repeats: int) -> list[np.ndarray]:
    """Return balanced weights of one half of the questions and of the other, in turns, both sides in each."""
    names, weights = np.unique(train.groups), []
    for _ in range(20 * repeats):
        first = np.isin(train.groups, chooser.permutation(names)[: len(names) // 2])
        half, other_half = train.weights(first), train.weights(~first)
        if half.any() and other_half.any():
            weights += [half, other_half]
        if len(weights) == 2 * repeats:
            return weights
    raise UserError("The questions cannot be halved with both sides in each half: there are too few of them.")


def _null(test: Examples, scores: np.ndarray, chooser: np.random.Generator) -> np.ndarray:
    """Return the accuracy of each relabelling's scores [n_permutations, n, n_blocks] for relabelled test questions."""
    accuracies = []
    for relabelled_scores in scores:
        labels = permuted(test.labels, test.strata, chooser)
        accuracies.append(accuracy_by_block(relabelled_scores, labels, balanced(labels, test.strata, test.sizes)))
    return np.array(accuracies)


def directions_of(train: Examples, fits: Scorers, method: Method, penalties: np.ndarray) -> Directions:
    """Return the first fit as directions: the mean difference itself, or the probe's unit weight."""
    first = fits.one(0)
    weights = train.weights()[None]
    differences, means = weighted_differences(train.activations, train.labels[None], weights)
    vectors = differences[0] if method == "diff-in-means" else first.units[0]
    projections = project(train.activations, first.units)
    spread = middle_and_spread(projections, train.labels[None], weights)[1][0].astype(np.float32)
    extra = {"balance": asdict(train.counts()), **({"penalties": penalties.tolist()} if method == "probe" else {})}
    made = replace(train.construction, method=method, extra={**train.construction.extra, **extra})
    blocks = tuple(range(len(vectors)))
    return Directions(vectors.astype(np.float32), means[0][0], means[1][0], spread, blocks, made)


def prompt_only(
    train: Examples, test: Examples, prompts: Mapping[str, np.ndarray], options: SweepOptions
) -> SeparationByBlock:
    """Return what a probe reaches on test questions that reads only the base model's prompt, and so knows no answer.

    `prompts` holds a vector [n_blocks, d_model] for each question; rows weigh what they weigh for the directions.
    """
    known = _with_prompts(train, prompts)
    _, penalties = cross_fit(known, "probe", options)
    fit = fit_scorers("probe", known.activations, known.labels[None], known.weights()[None], penalties)
    names, codes = np.unique(test.questions, return_inverse=True)
    scores = fit.scores(np.stack([prompts[name] for name in names.tolist()]))[0][
        codes
    ]  # one score a question, to the bit
    return separation_by_block(scores, test.labels, test.groups, test.weights(), options.seed)


def prompt_leak(
    parts: tuple[Examples, Examples], prompts: Mapping[str, np.ndarray], options: SweepOptions
) -> np.ndarray:
    """Return the AUROC [n_blocks] of such a probe when all answers are split without regard to their questions.

    Nothing is balanced either: this is the leak that grouping and balance prevent, not a figure of any direction.
    """
    first, second = parts
    activations = np.concatenate(
        [_with_prompts(first, prompts).activations, _with_prompts(second, prompts).activations]
    )
    labels = np.concatenate([first.labels, second.labels])
    fold = np.random.default_rng(options.seed).permutation(len(labels)) % options.folds
    ones = np.ones(len(fold))
    logits = choose_penalties(activations, labels, ones, fold, options.penalties).logits
    return auroc_by_block(logits, labels, ones)


def _with_prompts(examples: Examples, prompts: Mapping[str, np.ndarray]) -> Examples:
    return replace(examples, activations=np.stack([prompts[question] for question in examples.questions.tolist()]))
