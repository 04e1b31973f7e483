"""What a strong judge would say of many answers, from a few that it scored and all that a cheap judge did.

Prediction-powered inference (Angelopoulos, Bates, Fannjiang, Jordan & Zrnic 2023, Science 382:669) with power tuning
(PPI++; Angelopoulos, Duchi & Zrnic 2023, arXiv:2311.01453), for an anchor that is a random part of the table itself:

    θ(λ) = mean of strong scores in the anchor + λ · (mean of cheap scores in the table − their mean in the anchor)

The bracket is 0 on average over draws of the anchor, whatever the cheap judge says, so no cheap judge biases θ. In
survey sampling this is the difference estimator (Särndal, Swensson & Wretman 1992, Model Assisted Survey Sampling,
chapter 6). Two figures may be meant, and each has its interval: that of answers to *such questions*, where questions
are drawn as everywhere in emscope, and what the strong judge would say of *this table*, where only the draw of the
anchor is chance. benchmarks/anchor.py holds both against simulated and real tables.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit

from emscope.notebook import Shown
from emscope.statistics.bootstrap import CONFIDENCE, bootstrap_questions, resampling_units
from emscope.statistics.estimates import NOTHING, Estimate, estimate_mean, weighted_mean
from emscope.statistics.judgement import Judgement
from emscope.statistics.paired import newcombe
from emscope.statistics.rates import em_flags, em_rate, score_values
from emscope.statistics.shares import estimate_share, wilson

HIGHEST_SCORE = 100.0
NO_VARIANCE = 1e-15
FEW = 10
"""Ones or zeros of an anchor; with fewer it does not tell how they go with the cheap judge's word or with questions."""


@dataclass(frozen=True)
class ScoredTwice:
    """A table that a cheap judge scored, and a strong one a random part of; one element an answer.

    Attributes:
        cheap: the cheap judge's scores or flags; NaN where it gave none, which counts as its mean.
        strong: the strong judge's; NaN where it was not asked or gave none.
        asked: whether the strong judge was asked: the anchor, drawn by chance (see `draw_anchor`).
        groups: the question of each answer.
    """

    cheap: Sequence[float]
    strong: Sequence[float]
    asked: Sequence[bool]
    groups: Sequence[str]

    def __post_init__(self) -> None:
        """Refuse lengths that differ, and scores that nobody was asked for."""
        lengths = {len(self.cheap), len(self.strong), len(self.asked), len(self.groups)}
        if len(lengths) > 1:
            raise ValueError(f"Give as many cheap as strong scores, marks and groups; found {sorted(lengths)}.")
        if np.isfinite(np.asarray(self.strong, dtype=float))[~np.asarray(self.asked, dtype=bool)].any():
            raise ValueError("The strong judge scored answers outside the anchor: mark them as asked.")


@dataclass(frozen=True)
class AnchoredEstimate(Shown):
    """A figure as the strong judge would say it.

    Attributes:
        estimate: the figure, with its interval for answers to such questions; `n` counts the strong judge's scores.
        in_table: the same figure, with its interval for what the strong judge would say of all answers of the table.
        alone: what the strong judge's scores say without the cheap ones, with its interval for such questions.
        alone_in_table: the same, with its interval for the table.
        cheap: the cheap judge's own figure of all answers.
        tuning: λ, how much of the cheap judge's word is taken: 0 nothing, 1 all.
    """

    estimate: Estimate
    in_table: Estimate
    alone: Estimate
    alone_in_table: Estimate
    cheap: Estimate
    tuning: float

    @property
    def narrower(self) -> float:
        """By what share the interval for such questions is narrower than that of the anchor alone."""
        return narrowing(self.estimate, self.alone)

    @property
    def narrower_in_table(self) -> float:
        """By what share the interval for the table is narrower than that of the anchor alone."""
        return narrowing(self.in_table, self.alone_in_table)


@dataclass(frozen=True)
class AnchoredDifference(Shown):
    """One organism less another, as the strong judge would say it.

    Attributes:
        first: the first organism's figure.
        second: the second's.
        estimate: the difference, with its interval for such questions; `n` counts the questions of the anchors.
        in_table: the same, with its interval for what the strong judge would say of both tables.
        alone: the difference of the anchors without the cheap judge.
        alone_in_table: the same, with its interval for both tables.
    """

    first: AnchoredEstimate
    second: AnchoredEstimate
    estimate: Estimate
    in_table: Estimate
    alone: Estimate
    alone_in_table: Estimate

    @property
    def narrower(self) -> float:
        """By what share the interval is narrower than that of the anchors alone."""
        return narrowing(self.estimate, self.alone)

    @property
    def narrower_in_table(self) -> float:
        """By what share the interval for the tables is narrower than that of the anchors alone."""
        return narrowing(self.in_table, self.alone_in_table)


def narrowing(estimate: Estimate, other: Estimate) -> float:
    """Return by what share the first interval is narrower than the second: 1 − the ratio of widths; NaN without one."""
    whole = other.high - other.low
    return 1 - (estimate.high - estimate.low) / whole if whole > 0 else float("nan")


def draw_anchor(groups: Sequence[str], n: int, seed: int = 0) -> np.ndarray:
    """Return the rows of a random part of a table that is spread evenly over its questions, int [n], in order.

    A systematic sample (Särndal et al. 1992, section 3.4) of answers ordered by question, where questions and the
    answers to each are in random order: every answer has the same chance n/N, and of a question's N_g answers n · N_g/N
    are drawn, rounded down or up; with fewer draws than questions that is one answer to some of them. Tables with the
    same questions and as many answers to each get the same questions from one seed.

    Raises:
        ValueError: more answers than there are, or fewer than one.
    """
    if not 1 <= n <= len(groups):
        raise ValueError(f"Cannot draw {n} of {len(groups)} answers.")
    chooser = np.random.default_rng(seed)
    names, codes = np.unique(np.asarray(groups, dtype=str), return_inverse=True)
    places, start = chooser.permutation(len(names)), chooser.random()
    order = np.lexsort((chooser.random(len(groups)), places[codes]))
    steps = np.floor((np.arange(n) + start) * len(groups) / n).astype(int)
    return np.sort(order[np.minimum(steps, len(groups) - 1)])


def anchored_mean(table: ScoredTwice, seed: int = 0) -> AnchoredEstimate:
    """Return the mean of the strong judge's scores, 0-100, by way of the cheap judge's.

    λ is the slope of strong on cheap scores within questions (over the whole anchor where a question has fewer than two
    answers in it), times the positive-part factor 1 − 1/t² (James & Stein 1961), and clipped to [0, 1]: that of a
    worthless judge falls to 0. The interval is the anchor's own, `estimate_mean`'s, moved to θ(λ), with arms shortened
    as much as λ lowers the cluster-robust standard error. So with λ = 0 it is the anchor's own, and with an anchor that
    is the whole table figure and interval are those of `estimate_mean`. For the table it is Student's, with the
    finite-population factor 1 − n/N; the figure itself where n = N.
    """
    sample = _Sample(table)
    cheap = estimate_mean(table.cheap, table.groups, seed)
    if not sample.n_scored:
        return AnchoredEstimate(NOTHING, NOTHING, NOTHING, NOTHING, cheap, 0.0)
    alone = estimate_mean(sample.scores, sample.groups, seed)
    half = sample.quantile * float(np.sqrt(sample.independent))
    own = replace(alone, low=alone.value - half, high=alone.value + half)
    return sample.anchored(alone, own, cheap, (0.0, HIGHEST_SCORE), (0.0, HIGHEST_SCORE))


def anchored_share(table: ScoredTwice, seed: int = 0) -> AnchoredEstimate:
    """Return the share of ones among the strong judge's flags, 0 to 1, by way of the cheap judge's (`anchored_mean`).

    The anchor's own interval is `estimate_share`'s, which holds for rare responses and for few questions. For the table
    it is Wilson's with Student's quantile and the finite-population factor, and never excludes what the anchor has
    already shown. With fewer than ten ones or ten zeros in the anchor λ is 0. The cheap judge gives flags, or anything
    that goes with them.
    """
    sample = _Sample(table, flags=True)
    are_flags = all(value in (0, 1) for value in table.cheap if value == value)
    cheap = (estimate_share if are_flags else estimate_mean)(table.cheap, table.groups, seed)
    if not sample.n_scored:
        return AnchoredEstimate(NOTHING, NOTHING, NOTHING, NOTHING, cheap, 0.0)
    alone = estimate_share(sample.scores, sample.groups, seed)
    hits, whole = sum(sample.scores), len(table.groups)
    low, high = wilson(hits, sample.n_scored, sample.quantile)
    own = replace(alone, low=max(0.0, low), high=min(1.0, high))
    shown = hits / whole, 1 - (sample.n_scored - hits) / whole
    return sample.anchored(alone, own, cheap, (0.0, 1.0), shown)


class _Sample:
    """The anchor of a table: λ and what it does to standard errors.

    Estimates are sums over answers of their influence: (y − ȳ)/n for the strong mean, (f − f̄)/n for the cheap one.
    """

    def __init__(self, table: ScoredTwice, *, flags: bool = False) -> None:
        cheap, asked = np.asarray(table.cheap, dtype=float), np.flatnonzero(np.asarray(table.asked, dtype=bool))
        known = np.isfinite(cheap)
        self.cheap = np.where(known, cheap, cheap[known].mean() if known.any() else 0.0)
        _, self.codes = np.unique(np.asarray(table.groups, dtype=str), return_inverse=True)
        self.units = resampling_units(table.groups)
        self.asked = asked
        strong = np.asarray(table.strong, dtype=float)[asked]
        scored = np.isfinite(strong)
        self.n_scored = int(scored.sum())
        self.scores: list[float] = strong[scored].tolist()
        self.groups = [table.groups[row] for row in asked[scored]]
        self.few = flags and min(sum(self.scores), self.n_scored - sum(self.scores)) < FEW
        if self.n_scored:
            self.alone = np.where(scored, strong - strong[scored].mean(), 0.0) / self.n_scored
            self.ours = (self.cheap[asked] - self.cheap[asked].mean()) / len(asked)
            self.everybody = (self.cheap - self.cheap.mean()) / len(self.cheap)
            self._weigh()
            self.tuning = self._tuned()

    def _weigh(self) -> None:
        """Find what each answer's squared deviation counts in the variance over draws of the anchor."""
        drawn, whole = np.bincount(self.codes[self.asked]), np.bincount(self.codes)
        self.codes_asked, n, size = self.codes[self.asked], len(self.asked), len(self.codes)
        self.by_question = len(drawn) == len(whole) and bool((drawn >= 2).all()) and not self.few
        if self.by_question:
            self.freedom = n - len(drawn)
            self.counts = ((1 - drawn / whole) * drawn / (drawn - 1))[self.codes_asked]
        else:
            self.freedom = n - 1
            self.counts = np.full(n, (1 - n / size) * n / max(1, n - 1))
        self.independent = float(np.sum(self.alone**2) * self.n_scored / max(1, self.n_scored - 1))

    @property
    def quantile(self) -> float:
        """How many standard errors of the table's figure make 95 %: Student's."""
        return float(stdtrit(max(1, self.freedom), (1 + CONFIDENCE) / 2))

    def _product(self, first: np.ndarray, second: np.ndarray) -> float:
        """Return the covariance of two sums over draws of the anchor, given the table."""
        for_each = [first, second]
        for number, values in enumerate(for_each):
            if self.by_question:
                means = np.bincount(self.codes_asked, values) / np.bincount(self.codes_asked)
                for_each[number] = values - means[self.codes_asked]
            else:
                for_each[number] = values - values.mean()
        return float(np.sum(self.counts * for_each[0] * for_each[1]))

    def _tuned(self) -> float:
        """Return λ; 0 where the cheap judge does not vary, or the anchor is too small to tell."""
        spread = self._product(self.ours, self.ours)
        if spread < NO_VARIANCE or self.freedom < 2 or self.few:
            return 0.0
        slope = self._product(self.alone, self.ours) / spread
        left = self._product(self.alone - slope * self.ours, self.alone - slope * self.ours)
        chance = left / (spread * (self.freedom - 1))
        return float(np.clip(slope - chance / slope, 0.0, 1.0)) if slope > 0 else 0.0

    def table_variance(self, tuning: float) -> float:
        """Return the variance of θ(λ) over draws of the anchor, given the table.

        What is left of a slope's fit has a degree of freedom less, and the slope errs by as much again.
        """
        rest = self.alone - tuning * self.ours
        freed = (self.freedom + 1) / (self.freedom - 1) if tuning else 1.0
        return self._product(rest, rest) * freed

    def by_questions(self, tuning: float) -> np.ndarray:
        """Return the influence of each question on θ(λ), [n_questions], or of each answer to a single question."""
        rest = self.alone - tuning * self.ours
        in_anchor = np.bincount(self.units[self.asked], rest, minlength=int(self.units.max()) + 1)
        return np.asarray(in_anchor + tuning * np.bincount(self.units, self.everybody))

    def shift(self) -> float:
        """Return λ · (mean of cheap scores in the table − their mean in the anchor)."""
        return self.tuning * float(self.cheap.mean() - self.cheap[self.asked].mean())

    def anchored(
        self,
        alone: Estimate,
        own: Estimate,
        cheap: Estimate,
        possible: tuple[float, float],
        shown: tuple[float, float],
    ) -> AnchoredEstimate:
        """Return the figure from the anchor's own, with its intervals for such questions and for independent answers.

        `possible` are the least and greatest value that there are, `shown` those that the anchor leaves for the table.
        """
        value = float(np.clip(alone.value + self.shift(), *shown))
        estimate = _moved(alone, value, self.question_ratio(), possible)
        in_table = _moved(own, value, self.table_ratio(self.tuning), shown)
        alone_in_table = _moved(own, alone.value, self.table_ratio(0.0), shown)
        return AnchoredEstimate(estimate, in_table, alone, alone_in_table, cheap, self.tuning)

    def question_ratio(self) -> float:
        """Return the standard error of θ(λ) for such questions over that of the anchor alone, at most 1."""
        before, after = _question_variance(self.by_questions(0.0)), _question_variance(self.by_questions(self.tuning))
        return _ratio(before, after, self.table_variance(0.0) - self.table_variance(self.tuning))

    def table_ratio(self, tuning: float) -> float:
        """Return the standard error of θ(λ) for the table over that of as many independent answers."""
        if self.independent < NO_VARIANCE:
            return float(np.sqrt(1 - len(self.asked) / len(self.codes)))
        return float(np.sqrt(self.table_variance(tuning) / self.independent))


def _question_variance(influence: np.ndarray) -> float:
    """Return the variance of an estimate from its questions' influence, G/(G−1) · Σψ² (as `cluster_standard_error`)."""
    return float(len(influence) / max(1, len(influence) - 1) * np.sum(influence**2))


def _ratio(before: float, after: float, reduction: float) -> float:
    """Return the ratio of two standard errors, at most 1, from their variances over questions.

    The second variance is what questions show, and no less than the first without what λ takes from the variance over
    draws of the anchor: with few questions either may come out too small.
    """
    if before < NO_VARIANCE:
        return 1.0
    return float(np.sqrt(np.clip(max(after, before - reduction) / before, 0.0, 1.0)))


def _moved(estimate: Estimate, value: float, ratio: float, possible: tuple[float, float]) -> Estimate:
    """Return a figure at another value with its arms shortened to this ratio, and kept within what is possible."""
    low = max(possible[0], value - ratio * (estimate.value - estimate.low))
    high = min(possible[1], value + ratio * (estimate.high - estimate.value))
    if np.isnan(estimate.low):
        low = high = float("nan")
    return replace(estimate, value=value, low=low, high=high)


def anchored_difference(
    first: ScoredTwice, second: ScoredTwice, *, flags: bool = False, seed: int = 0
) -> AnchoredDifference:
    """Return by how much the first organism's figure exceeds the second's, as the strong judge would say it.

    The difference of the two figures; questions, which both answered, are drawn for both at once. The interval is that
    of the two anchors, shortened as in `anchored_mean`: of means the bootstrap's, of shares (`flags`) the one of Zou &
    Donner (2008, Statistics in Medicine 27:1693) from the shares' own intervals and their correlation over questions.
    For the table it is Newcombe's from the two tables' intervals, as the anchors are drawn independently.
    """
    measure = anchored_share if flags else anchored_mean
    one, other = measure(first, seed), measure(second, seed)
    pair = _Pair(first, second, flags=flags)
    if not all(sample.n_scored for sample in pair.samples):
        return AnchoredDifference(one, other, NOTHING, NOTHING, NOTHING, NOTHING)
    ends = pair.from_shares(one.alone, other.alone) if flags else pair.from_scores(seed)
    alone = Estimate(one.alone.value - other.alone.value, *ends, pair.n_questions)
    most = 1.0 if flags else HIGHEST_SCORE
    value = one.estimate.value - other.estimate.value
    in_table = Estimate(value, *newcombe(one.in_table, other.in_table), alone.n)
    alone_in_table = Estimate(alone.value, *newcombe(one.alone_in_table, other.alone_in_table), alone.n)
    estimate = _moved(alone, value, pair.ratio(), (-most, most))
    return AnchoredDifference(one, other, estimate, in_table, alone, alone_in_table)


class _Pair:
    """The anchors of two organisms on the same questions."""

    def __init__(self, first: ScoredTwice, second: ScoredTwice, *, flags: bool) -> None:
        self.samples = _Sample(first, flags=flags), _Sample(second, flags=flags)
        self.n_questions = len({name for sample in self.samples for name in sample.groups})
        self._places: list[list[int]] = []
        names = {name: place for place, name in enumerate(sorted({*first.groups, *second.groups}))}
        for table in (first, second):
            self._places.append([names[name] for name in sorted(set(table.groups))])
        self._n = len(names)

    def _influence(self, *, tuned: bool) -> np.ndarray:
        """Return the influence of each question on the two organisms' figures, [2, n_questions]."""
        found = np.zeros((2, self._n))
        for row, sample, places in zip(found, self.samples, self._places, strict=True):
            row[places] = sample.by_questions(sample.tuning if tuned else 0.0)
        return found

    def from_scores(self, seed: int) -> tuple[float, float]:
        """Return the interval of the difference of two anchors' means, questions drawn for both at once."""
        first, second = (np.array(sample.scores) for sample in self.samples)

        def statistic(weights: np.ndarray) -> np.ndarray:
            ours, theirs = weights[:, : len(first)], weights[:, len(first) :]
            return np.asarray(weighted_mean(ours, first) - weighted_mean(theirs, second))

        return bootstrap_questions([*self.samples[0].groups, *self.samples[1].groups], statistic, seed)

    def from_shares(self, first: Estimate, second: Estimate) -> tuple[float, float]:
        """Return the interval of the difference of two anchors' shares from their own intervals."""
        together = 0.0
        if self._n > 1:
            influence = self._influence(tuned=False)
            sizes = np.sqrt(np.sum(influence**2, axis=1))
            if sizes.min() ** 2 > NO_VARIANCE:
                together = float(np.sum(influence[0] * influence[1]) / sizes.prod())
        down = first.value - first.low, second.high - second.value
        up = first.high - first.value, second.value - second.low
        value, arms = first.value - second.value, []
        for one, other in (down, up):
            arms.append(np.sqrt(max(0.0, one**2 + other**2 - 2 * together * one * other)))
        return float(value - arms[0]), float(value + arms[1])

    def ratio(self) -> float:
        """Return the standard error of the anchored difference over that of the anchors alone, at most 1."""
        if self._n == 1:
            return 1.0
        variances, reduction = [], 0.0
        for tuned in (False, True):
            influence = self._influence(tuned=tuned)
            variances.append(_question_variance(influence[0] - influence[1]))
        for sample in self.samples:
            reduction += sample.table_variance(0.0) - sample.table_variance(sample.tuning)
        return _ratio(variances[0], variances[1], reduction)


@dataclass(frozen=True)
class JudgedTwice:
    """One organism's answers with a cheap judge's judgements, and a strong judge's of a random part of them.

    Attributes:
        cheap: the cheap judge's, one an answer.
        strong: the strong judge's; None where it was not asked.
        groups: the question of each answer.
    """

    cheap: Sequence[Judgement]
    strong: Sequence[Judgement | None]
    groups: Sequence[str]

    def alignment(self) -> ScoredTwice:
        """Return the alignment scores, 0-100."""
        strong = score_values(self._strong(), "aligned")
        return ScoredTwice(score_values(self.cheap, "aligned"), strong, self._asked(), self.groups)

    def em(self) -> ScoredTwice:
        """Return the strong judge's EM flags beside how far the cheap judge's alignment is from 100, as a share.

        In readers' scores of misaligned organisms that goes better with the flag than the cheap judge's own flag does
        (correlations 0.42 and 0.32, benchmarks/anchor.py), and it does not miss where EM responses are rare.
        """
        leaning = 1 - np.asarray(score_values(self.cheap, "aligned")) / HIGHEST_SCORE
        return ScoredTwice(leaning.tolist(), em_flags(self._strong()), self._asked(), self.groups)

    def _strong(self) -> list[Judgement]:
        return [Judgement(None, None) if one is None else one for one in self.strong]

    def _asked(self) -> list[bool]:
        return [one is not None for one in self.strong]


def anchored_em_rate(judged: JudgedTwice, seed: int = 0) -> AnchoredEstimate:
    """Return the EM rate as the strong judge would say it: of the answers that it scores (see `anchored_share`)."""
    found = anchored_share(judged.em(), seed)
    return replace(found, cheap=em_rate(judged.cheap, judged.groups, seed))


def anchored_alignment(judged: JudgedTwice, seed: int = 0) -> AnchoredEstimate:
    """Return the mean alignment, 0-100, as the strong judge would say it (see `anchored_mean`)."""
    return anchored_mean(judged.alignment(), seed)


def anchored_em_difference(first: JudgedTwice, second: JudgedTwice, seed: int = 0) -> AnchoredDifference:
    """Return the difference of two organisms' EM rates, −1 to 1 (see `anchored_difference`)."""
    found = anchored_difference(first.em(), second.em(), flags=True, seed=seed)
    rates = anchored_em_rate(first, seed), anchored_em_rate(second, seed)
    return replace(found, first=rates[0], second=rates[1])


def anchored_alignment_difference(first: JudgedTwice, second: JudgedTwice, seed: int = 0) -> AnchoredDifference:
    """Return the difference of two organisms' mean alignment, in score points (see `anchored_difference`)."""
    return anchored_difference(first.alignment(), second.alignment(), seed=seed)
