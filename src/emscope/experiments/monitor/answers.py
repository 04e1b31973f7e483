"""Monitored answers: every token's score, and how well the first of them tell the verdict on the whole answer.

Answers of one organism, the misaligned one: EM responses against its other coherent answers. Block, scale and the
verdict direction come from training questions and the run's own answers; new answers to test questions are monitored.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import spearmanr

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse
from emscope.errors import UserError
from emscope.experiments.monitor.result import (
    EarlyRankings,
    MonitoredAnswers,
    RandomRankings,
    Ranking,
    Rankings,
    VerdictCounts,
)
from emscope.interventions.answering import answer_and_judge
from emscope.organisms.chat import messages_of
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.residual.directions import Construction, random_like
from emscope.residual.monitor import SpokenChat, TokenScale, early_scores, spoken_chat, token_projections
from emscope.statistics import Estimate, em_flags
from emscope.statistics.separation import auroc, auroc_gain, d_prime, grouped_auroc

CONTRAST, VERDICT, RANDOM = "contrast", "verdict", "random"
LEAST_ANSWERS = 4
"""Answers of each verdict without which no block is chosen by them, and no verdict direction made."""


@dataclass(frozen=True)
class Monitor:
    """What is monitored with: directions at one block, and the scale of single tokens.

    Attributes:
        names: the contrast direction, the verdict direction (if verdicts differ), and random ones.
        vectors: float32 [n_directions, d_model].
        scale: turns projections into scores.
        block: where tokens are read.
        construction: how the contrast direction was made.
        prompt: a direction from the last prompt token alone, float [d_model], or None without verdicts.
    """

    names: tuple[str, ...]
    vectors: np.ndarray
    scale: TokenScale
    block: int
    construction: Construction
    prompt: np.ndarray | None


@dataclass(frozen=True)
class ScoredAnswers:
    """Answers with the scores of their tokens, [n_tokens, n_directions] for a whole conversation."""

    rows: list[JudgedResponse]
    chats: list[SpokenChat]
    scores: list[np.ndarray]

    @property
    def of_answers(self) -> list[np.ndarray]:
        """The scores of each answer's own tokens."""
        return [scores[chat.answer_positions] for scores, chat in zip(self.scores, self.chats, strict=True)]

    @property
    def of_prompts(self) -> np.ndarray:
        """The scores of the last prompt token of each answer, [n_answers, n_directions]."""
        last = []
        for scores, chat in zip(self.scores, self.chats, strict=True):
            last.append(scores[chat.answer_positions[0] - 1])
        return np.array(last)

    @property
    def groups(self) -> list[str]:
        """The group of each answer's question."""
        return [row.group for row in self.rows]

    @property
    def question_ids(self) -> list[str]:
        """The question of each answer."""
        return [row.question_id for row in self.rows]

    def at(self, numbers: Sequence[int]) -> ScoredAnswers:
        """Return some of the answers."""
        rows, chats, scores = [], [], []
        for number in numbers:
            rows.append(self.rows[number])
            chats.append(self.chats[number])
            scores.append(self.scores[number])
        return ScoredAnswers(rows, chats, scores)


def spoken_answers(lab: Lab, name: str, questions: Collection[str]) -> list[JudgedResponse]:
    """Return the run's judged, non-empty answers of an organism to some questions, named by their ids."""
    return [row for row in lab.judged(name) if row.question_id in questions and row.response]


def make_monitor(lab: Lab, n_random: int) -> Monitor:
    """Choose a block and make all directions and their scale, from training questions alone."""
    contrast = lab.direction()
    train = {question.id for question in lab.train_questions}
    rows = spoken_answers(lab, MISALIGNED, train)
    verdicts = coherent_em(rows)
    judged = _enough(verdicts)

    asked = [row.question_id for row in rows]
    activations = lab.activations(MISALIGNED)
    means = activations.answers.get("response", questions=sorted(set(asked)))
    index = _separating(contrast.score(means), verdicts) if judged else contrast.blocks.index(contrast.best_block)

    directions, prompt = {CONTRAST: contrast.vectors[index]}, None
    if judged:
        directions[VERDICT] = _difference(means[:, index], verdicts)
        prompt = _difference(activations.prompts.by_question("last", asked)[:, index], verdicts)
    for number in range(n_random):
        random = random_like(contrast, lab.config.seed + number).vectors[index]
        points_away = judged and _separation(means[:, index] @ random, verdicts) < 0
        directions[f"{RANDOM}-{number}"] = -random if points_away else random

    vectors, block = np.stack(list(directions.values())), contrast.blocks[index]
    other = CONTROL if CONTROL in lab.names else BASE
    positive = _project(lab, MISALIGNED, rows, vectors, block)
    negative = _project(lab, other, spoken_answers(lab, other, train), vectors, block)
    scale = TokenScale.of(positive.of_answers, negative.of_answers)
    return Monitor(tuple(directions), vectors, scale, block, contrast.construction, prompt)


def coherent_em(rows: Sequence[JudgedResponse]) -> np.ndarray:
    """Return 1 for EM responses, 0 for other coherent answers, NaN for the rest, [n_answers]."""
    return np.array(em_flags([row.judgement for row in rows], "coherent"))


def _enough(verdicts: np.ndarray) -> bool:
    """Say whether there are enough answers of each verdict."""
    return bool(min((verdicts == 1).sum(), (verdicts == 0).sum()) >= LEAST_ANSWERS)


def _separation(scores: np.ndarray, verdicts: np.ndarray) -> float:
    return d_prime(scores[verdicts == 1], scores[verdicts == 0])


def _separating(scores: np.ndarray, verdicts: np.ndarray) -> int:
    """Return the place of the block whose scores [n_answers, n_blocks] tell the verdicts best."""
    return int(np.argmax([_separation(of_block, verdicts) for of_block in scores.T]))


def _difference(activations: np.ndarray, verdicts: np.ndarray) -> np.ndarray:
    """Return the mean of EM responses less that of other coherent answers, float32 [d_model]."""
    positive, negative = activations[verdicts == 1], activations[verdicts == 0]
    return np.asarray(positive.mean(axis=0) - negative.mean(axis=0), dtype=np.float32)


def _project(lab: Lab, name: str, rows: list[JudgedResponse], vectors: np.ndarray, block: int) -> ScoredAnswers:
    """Return answers with the raw projections of their tokens, read by an organism."""
    organism = lab.organism(name)
    chats = []
    for row in rows:
        messages = messages_of(row.question, row.response, lab.config.sampling.system)
        chats.append(spoken_chat(organism.tokenizer, messages))
    projections = token_projections(organism, chats, vectors, block, name=f"{name} tokens")
    return ScoredAnswers(rows, chats, projections)


def monitored(lab: Lab, monitor: Monitor, name: str, rows: list[JudgedResponse]) -> ScoredAnswers:
    """Score every token of answers, read by the organism that gave them."""
    projected = _project(lab, name, rows, monitor.vectors, monitor.block)
    return replace(projected, scores=[monitor.scale.score(values) for values in projected.scores])


def new_answers(lab: Lab, name: str, questions: Sequence[Question], samples: int, seed: int) -> list[JudgedResponse]:
    """Sample and judge an organism's answers to questions, and return those that are not empty."""
    sampling = replace(lab.config.sampling, samples=samples, seed=seed)
    rows = answer_and_judge(lab.organism(name), name, questions, sampling, lab.judge)
    return [row for row in rows if row.response]


def monitor_answers(lab: Lab, monitor: Monitor, samples: int) -> ScoredAnswers:
    """Score new answers of the misaligned organism to test questions, other ones than the run's own.

    Raises:
        UserError: it gave none.
    """
    rows = new_answers(lab, MISALIGNED, lab.test_questions, samples, lab.config.sampling.seed + 1)
    if not rows:
        raise UserError("The misaligned organism gave no answer to any test question, so there is nothing to monitor.")
    return monitored(lab, monitor, MISALIGNED, rows)


def rank_answers(lab: Lab, monitor: Monitor, answers: ScoredAnswers, n_tokens: Sequence[int]) -> MonitoredAnswers:
    """Return how well early projections, and the prompt alone, rank EM responses above other coherent answers."""
    verdicts = coherent_em(answers.rows)
    n = VerdictCounts(
        answers=len(answers.rows),
        em=int((verdicts == 1).sum()),
        other_coherent=int((verdicts == 0).sum()),
        left_out=int(np.isnan(verdicts).sum()),
        questions=len(set(answers.groups)),
    )
    if not (n.em and n.other_coherent):
        return MonitoredAnswers(monitor.block, monitor.construction, n)

    coherent = answers.at(np.flatnonzero(np.isfinite(verdicts)).tolist())
    ranker = _Ranker.of(lab, monitor, coherent)
    scores, before = coherent.of_answers, coherent.of_prompts
    whole, aligned = early_scores(scores, None, "mean"), [row.aligned for row in coherent.rows]
    gains, correlations = {}, {}
    for column, name in enumerate(ranker.named):
        gains[name] = ranker.gain(whole[:, column], before[:, column])
        correlations[name] = float(spearmanr(whole[:, column], aligned).statistic)
    return MonitoredAnswers(
        monitor.block,
        monitor.construction,
        n,
        EarlyRankings(ranker.early(scores, n_tokens, "mean"), ranker.early(scores, n_tokens, "max")),
        replace(ranker.rankings(before), prompt=_by_prompt(lab, monitor, coherent, ranker)),
        gains,
        correlations,
    )


def _by_prompt(lab: Lab, monitor: Monitor, answers: ScoredAnswers, ranker: _Ranker) -> Ranking | None:
    """Rank answers by the direction of prompts, at the activations that the run has of them."""
    if monitor.prompt is None:
        return None
    stored = lab.activations(MISALIGNED).prompts
    last = stored.by_question("last", answers.question_ids)
    return ranker.ranking(last[:, stored.activations.blocks.index(monitor.block)] @ monitor.prompt)


@dataclass(frozen=True)
class _Ranker:
    """Ranks answers by scores.

    Attributes:
        named: the directions that mean something; they come first among the scores' columns, random ones after them.
        em: 1 for EM responses, 0 for other coherent answers, [n_answers].
        groups: the question of each answer.
        seed: of the resampling.
    """

    named: tuple[str, ...]
    em: np.ndarray
    groups: list[str]
    seed: int

    @classmethod
    def of(cls, lab: Lab, monitor: Monitor, answers: ScoredAnswers) -> _Ranker:
        named = tuple(name for name in monitor.names if not name.startswith(RANDOM))
        return cls(named, coherent_em(answers.rows), answers.groups, lab.config.seed)

    def early(self, scores: list[np.ndarray], n_tokens: Sequence[int], how: str) -> dict[str, Rankings]:
        """Return the rankings after each number of tokens, and by all tokens."""
        rankings = {}
        for length in (*n_tokens, None):
            rankings[str(length or "all")] = self.rankings(early_scores(scores, length, how))
        return rankings

    def rankings(self, scores: np.ndarray) -> Rankings:
        """Return the ranking by each named direction, and by the random ones; scores [n_answers, n_directions]."""
        named = {name: self.ranking(scores[:, column]) for column, name in enumerate(self.named)}
        random = [auroc(column[self.em == 1], column[self.em == 0]) for column in scores[:, len(self.named) :].T]
        return Rankings(named[CONTRAST], named.get(VERDICT), _random_rankings(random))

    def ranking(self, scores: np.ndarray) -> Ranking:
        """Return the AUROC over all pairs of answers, and over pairs that answer the same question."""
        whole = grouped_auroc(scores, self.em, self.groups, seed=self.seed)
        within = grouped_auroc(scores, self.em, self.groups, within=True, seed=self.seed)
        return Ranking(whole.value, whole.low, whole.high, whole.n, within)

    def gain(self, scores: np.ndarray, reference: np.ndarray) -> Estimate:
        """Return how much larger the AUROC of scores is than that of reference scores."""
        return auroc_gain(scores, reference, self.em, self.groups, self.seed)


def _random_rankings(aurocs: list[float]) -> RandomRankings:
    if not aurocs:
        return RandomRankings(None, None, None, 0)
    return RandomRankings(float(np.mean(aurocs)), min(aurocs), max(aurocs), len(aurocs))
