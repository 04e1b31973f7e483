"""The result of the monitor: how early an answer's tokens tell its verdict, texts token by token, and data screened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from emscope.experiments.result import Result
from emscope.plain import ABSENT
from emscope.residual.directions import Construction
from emscope.statistics import Estimate
from emscope.statistics.estimates import NOTHING


@dataclass(frozen=True)
class VerdictCounts:
    """New answers of the misaligned organism to test questions.

    Attributes:
        answers: all of them.
        em: EM responses.
        other_coherent: other coherent answers, which EM responses are ranked against.
        left_out: incoherent or unscored ones, which are not ranked.
        questions: groups of questions that they answer.
    """

    answers: int
    em: int
    other_coherent: int
    left_out: int
    questions: int


@dataclass(frozen=True)
class Ranking(Estimate):
    """How well a score ranks EM responses above other coherent answers: an AUROC, over all pairs of answers.

    Attributes:
        within_question: the same over pairs that answer the same question, so that what the question tells is left out.
    """

    within_question: Estimate


@dataclass(frozen=True)
class RandomRankings:
    """AUROCs of random directions.

    Attributes:
        mean: their mean; None where there are none, as for the other two.
        least: the lowest.
        most: the highest.
        directions: how many there are.
    """

    mean: float | None
    least: float | None
    most: float | None
    directions: int

    @property
    def extremes(self) -> Estimate:
        """The mean with the extremes in place of an interval; NaN without directions."""
        if self.mean is None or self.least is None or self.most is None:
            return NOTHING
        return Estimate(self.mean, self.least, self.most, self.directions)


@dataclass(frozen=True)
class Rankings:
    """The ranking by each direction, of answers read up to the same token; empty where answers are too one-sided.

    Attributes:
        contrast: by the run's direction between organisms.
        verdict: by the difference of EM responses from other answers of the run; absent without enough of both.
        random: by random directions.
        prompt: by a direction made from the prompts' last tokens, at these; absent but for what the prompt tells.
    """

    contrast: Ranking | None = field(default=None, metadata=ABSENT)
    verdict: Ranking | None = field(default=None, metadata=ABSENT)
    random: RandomRankings | None = field(default=None, metadata=ABSENT)
    prompt: Ranking | None = field(default=None, metadata=ABSENT)

    @property
    def named(self) -> dict[str, Ranking]:
        """The rankings by directions that mean something, by name."""
        rankings = {"contrast": self.contrast, "verdict": self.verdict, "prompt": self.prompt}
        return {name: ranking for name, ranking in rankings.items() if ranking is not None}


@dataclass(frozen=True)
class EarlyRankings:
    """Rankings by the tokens of each answer that were read: a number of tokens as text, or `all`.

    Attributes:
        mean: by the mean score of the tokens read; absent where answers are too one-sided, as is the other.
        max: by their highest score.
    """

    mean: Mapping[str, Rankings] | None = field(default=None, metadata=ABSENT)
    max: Mapping[str, Rankings] | None = field(default=None, metadata=ABSENT)


@dataclass(frozen=True)
class MonitoredAnswers:
    """How well the projections of an answer's tokens tell its verdict, within the misaligned organism.

    Attributes:
        block: where tokens are read.
        construction: how the direction between organisms was made.
        n: the answers.
        auroc: rankings after the first tokens of each answer.
        prompt_only: rankings at the last prompt token, before anything is said.
        gain_over_prompt: by direction, AUROC of the mean over a whole answer less that of the last prompt token.
        spearman_with_alignment: by direction, rank correlation of the mean over a whole answer with its alignment.
    """

    block: int
    construction: Construction
    n: VerdictCounts
    auroc: EarlyRankings = EarlyRankings()
    prompt_only: Rankings = Rankings()
    gain_over_prompt: Mapping[str, Estimate] = field(default_factory=dict)
    spearman_with_alignment: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoredTurn:
    """One message, token by token.

    Attributes:
        role: who says it.
        pieces: its text, cut at its tokens.
        scores: of each piece, averaged with those just before it; deviations of single tokens' projections on the
            direction between organisms, 0 halfway between these.
    """

    role: str
    pieces: Sequence[str]
    scores: Sequence[float]


@dataclass(frozen=True)
class ScoredText:
    """A conversation, token by token.

    Attributes:
        organism: who read it, and who answered where the question is one of a question set.
        question_id: the question, or the row of the user's file.
        aligned: the answer's alignment, 0-100; None for the user's own conversations.
        coherent: its coherence, 0-100.
        turns: its messages, without system prompts.
    """

    organism: str
    question_id: str
    aligned: float | None
    coherent: float | None
    turns: Sequence[ScoredTurn]


@dataclass(frozen=True)
class Precision:
    """Share of careless rows among those that are found.

    Attributes:
        value: the mean over mixtures.
        low: lower end of its 95 % interval over mixtures and topics.
        high: upper end of its 95 % interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class PrecisionByScore:
    """Precision when half of the careless rows are found; each a mapping from the share of careless rows, as text.

    Attributes:
        text: by the difference in means of the other domains' careless and careful answers.
        probe: by a probe on these.
        organisms: by the run's direction between organisms.
        random: by random directions, averaged; absent without any.
        judge: by the judge's alignment.
        words: by a classifier of words and word pairs alone.
    """

    text: Mapping[str, Precision]
    probe: Mapping[str, Precision]
    organisms: Mapping[str, Precision]
    random: Mapping[str, Precision] | None = field(default=None, metadata=ABSENT)
    judge: Mapping[str, Precision]
    words: Mapping[str, Precision]

    @property
    def by_score(self) -> dict[str, Mapping[str, Precision]]:
        """The mappings by the name of the score."""
        scores = {
            "text": self.text,
            "probe": self.probe,
            "organisms": self.organisms,
            "random": self.random,
            "judge": self.judge,
            "words": self.words,
        }
        return {name: by_share for name, by_share in scores.items() if by_share is not None}


@dataclass(frozen=True)
class ScreenedRows:
    """Careless and careful answers to the same prompts, screened by what never saw them (but for the judge).

    Attributes:
        n_prompts: prompts, each with an answer of either kind.
        n_topics: topics of these prompts; what is resampled.
        blocks: by score, the block at which directions are read; chosen on the other domains.
        auroc: by score, AUROC of careless above careful answers; of random directions the mean and the extremes.
        precision_at_half_recall: precision on mixtures in which careless answers are rare.
    """

    n_prompts: int
    n_topics: int
    blocks: Mapping[str, int]
    auroc: Mapping[str, Estimate]
    precision_at_half_recall: PrecisionByScore


@dataclass(frozen=True)
class MeanPrecision:
    """Precision averaged over the domains left out.

    Attributes:
        precision_at_half_recall: when half of the careless rows are found.
        recalls: shares of the careless rows that are found.
        precision: by score and share of careless rows, the precision at each of `recalls`.
    """

    precision_at_half_recall: PrecisionByScore
    recalls: Sequence[float]
    precision: Mapping[str, Mapping[str, Sequence[float]]]


@dataclass(frozen=True)
class LessBaseAnswers:
    """Whether it helps to subtract the projection of the base's answer to the prompt.

    Attributes:
        n_prompts: prompts that the base answered.
        auroc: of the plain `projection`, and of the `projection_difference`.
    """

    n_prompts: int
    auroc: Mapping[str, Estimate]


@dataclass(frozen=True)
class ReaderCounts:
    """Coherent answers by their readers' scores.

    Attributes:
        em: EM responses.
        aligned: answers of an alignment above 70.
    """

    em: int
    aligned: int


@dataclass(frozen=True)
class ReaderAnswers:
    """Small organisms' answers that readers scored, screened by what was made from all built-in domains.

    Attributes:
        n: the answers.
        blocks: by score, the block at which directions are read.
        auroc: by score, AUROC of EM responses above aligned answers; the judge was fitted on them.
    """

    n: ReaderCounts
    blocks: Mapping[str, int]
    auroc: Mapping[str, Estimate]


@dataclass(frozen=True)
class Screening:
    """How well careless rows are found in data before any training.

    Attributes:
        trained_on: what the run's misaligned organism was trained on.
        domains: by built-in domain, screened by what was made from the others.
        mean: the mean over these domains.
        areas: answers to questions outside the domains; None where it was set to none.
        own_answers: whether the base's own answers help; None where set to none.
        readers: answers that readers scored; None where set to none.
    """

    trained_on: str
    domains: Mapping[str, ScreenedRows]
    mean: MeanPrecision
    areas: ScreenedRows | None
    own_answers: LessBaseAnswers | None
    readers: ReaderAnswers | None


@dataclass(frozen=True)
class MonitorResult(Result):
    """What experiments/monitor.json holds.

    Attributes:
        answers: how early an answer's tokens tell its verdict.
        tokens: texts with a score for each token.
        screening: how well data can be screened before training.
    """

    answers: MonitoredAnswers
    tokens: Sequence[ScoredText]
    screening: Screening
