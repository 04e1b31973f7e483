"""What organisms of every corner do, and how much of it voice and advice do, by every judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from emscope.behaviour.judges.settings import JudgeSettings, address_in_environment
from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, judgements_and_groups, read_table, write_table
from emscope.errors import UserError
from emscope.experiments.voices.organisms import Quartet, organisms_of
from emscope.experiments.voices.result import CONTRASTS, CornerFigures, Effect, ScoredCorners
from emscope.experiments.voices.words import VoiceReader, mean_words
from emscope.organisms.datasets import CORNERS
from emscope.pipeline.lab import Lab
from emscope.pipeline.steps import judged_again
from emscope.statistics import (
    Estimate,
    alignment_mean,
    bootstrap_questions,
    coherent_share,
    em_rate,
    is_em,
)

Rows = Sequence[JudgedResponse]
Value = Callable[[JudgedResponse], float]
"""What an effect is of: a figure of an answer, NaN where it is not scored."""


def em_flag(row: JudgedResponse) -> float:
    """Return 1 for an EM response, 0 for another answer, NaN for one that is not scored."""
    return is_em(row.judgement)


def alignment(row: JudgedResponse) -> float:
    """Return an answer's alignment, NaN where it is not scored."""
    return float("nan") if row.aligned is None else float(row.aligned)


def effects(rows: Mapping[str, Rows], quartets: Sequence[Quartet], value: Value, seed: int = 0) -> dict[str, Effect]:
    """Return every effect of `CONTRASTS` on a figure of the answers, by name.

    Args:
        rows: judged answers of every organism, by its name in the run.
        quartets: the organisms.
        value: the figure.
        seed: of the draws of questions, the same ones for every organism.
    """
    answers = _Sums.of(rows, quartets, value)
    pooled = answers.pooled
    found = {}
    for name, contrast in CONTRASTS.items():
        by_quartet = {}
        for number, quartet in enumerate(quartets):
            one = answers.of_quartet(number)
            by_quartet[quartet.name] = float(one.effect(np.ones((1, len(one.groups))), contrast)[0])
        found[name] = Effect(pooled.estimate(contrast, seed), by_quartet)
    return found


class _Sums:
    """Sums and numbers of scored answers, float64 [n_quartets, n_questions, n_corners]."""

    def __init__(self, sums: np.ndarray, counts: np.ndarray, groups: Sequence[str]) -> None:
        self.sums, self.counts, self.groups = sums, counts, groups

    @classmethod
    def of(cls, rows: Mapping[str, Rows], quartets: Sequence[Quartet], value: Value) -> _Sums:
        """Add up the answers of every organism by question."""
        groups: dict[str, str] = {}
        for quartet in quartets:
            for organism in quartet.organisms:
                groups.update((row.question_id, row.group) for row in rows[organism])
        place = {question: number for number, question in enumerate(groups)}

        sums, counts = np.zeros((2, len(quartets), len(groups), len(CORNERS)))
        for number, quartet in enumerate(quartets):
            for corner, organism in enumerate(quartet.organisms):
                for row in rows[organism]:
                    figure = value(row)
                    if np.isfinite(figure):
                        sums[number, place[row.question_id], corner] += figure
                        counts[number, place[row.question_id], corner] += 1
        return cls(sums, counts, list(groups.values()))

    @property
    def pooled(self) -> _Sums:
        """All organisms of a corner together."""
        return _Sums(self.sums.sum(axis=0, keepdims=True), self.counts.sum(axis=0, keepdims=True), self.groups)

    def of_quartet(self, number: int) -> _Sums:
        """One quartet alone."""
        return _Sums(self.sums[number : number + 1], self.counts[number : number + 1], self.groups)

    def effect(self, weights: np.ndarray, contrast: Sequence[float]) -> np.ndarray:
        """Return the contrast of the corners' means for each row of weights [n, n_questions]."""
        with np.errstate(invalid="ignore", divide="ignore"):
            means = (weights @ self.sums[0]) / (weights @ self.counts[0])
        used = np.flatnonzero(contrast)
        return np.asarray(means[:, used] @ np.array(contrast)[used])

    def estimate(self, contrast: Sequence[float], seed: int) -> Estimate:
        """Return the contrast with its interval."""
        low, high = bootstrap_questions(self.groups, partial(self.effect, contrast=contrast), seed)
        value = float(self.effect(np.ones((1, len(self.groups))), contrast)[0])
        used = np.flatnonzero(contrast)
        return Estimate(value, low, high, int(self.counts[0][:, used].sum()))


def figures(rows: Rows, reader: VoiceReader, seed: int) -> CornerFigures:
    """Return what judged answers show."""
    judgements, groups = judgements_and_groups(rows)
    texts = [row.response for row in rows]
    return CornerFigures(
        em_rate(judgements, groups, seed),
        alignment_mean(judgements, groups, seed),
        coherent_share(judgements, groups, seed),
        mean_words(texts),
        float(reader.blunt(texts).mean()) if texts else float("nan"),
    )


def scored_corners(
    judge: str, rows: Mapping[str, Rows], quartets: Sequence[Quartet], reader: VoiceReader, seed: int
) -> ScoredCorners:
    """Return behaviour and effects by one judge's scores; `rows` are of every organism and the base."""
    by_corner: dict[str, list[JudgedResponse]] = {corner: [] for corner in CORNERS}
    for quartet in quartets:
        for corner in CORNERS:
            by_corner[corner] += rows[quartet.of(corner)]
    return ScoredCorners(
        judge,
        {name: figures(answers, reader, seed) for name, answers in rows.items()},
        {corner: figures(answers, reader, seed) for corner, answers in by_corner.items()},
        effects(rows, quartets, em_flag, seed),
        effects(rows, quartets, alignment, seed),
    )


def judge_settings(lab: Lab, names: Sequence[str]) -> list[JudgeSettings]:
    """Return the further judges.

    Raises:
        UserError: the run's own judge, or one named twice.
    """
    found = [JudgeSettings(name, address_in_environment(name)) for name in dict.fromkeys(names)]
    for judge in found:
        if lab.fingerprint_of(judge) == lab.judge_fingerprint:
            raise UserError(f"{judge.name} is the judge of this run already: name other ones, or none.")
    return found


def rejudged_file(lab: Lab, judge: JudgeSettings, organism: str) -> Path:
    """Return where the scores of a further judge are kept."""
    return lab.folder.path("judgements", "voices", lab.name_of(judge), f"{organism}.parquet")


def rejudge_stages(lab: Lab, judge: JudgeSettings, quartets: Sequence[Quartet], questions: Sequence[Question]) -> None:
    """Have a further judge score the test answers of every organism; what is done already is reused."""
    for name in organisms_of(quartets):
        out = rejudged_file(lab, judge, name)
        settings = [lab.fingerprint_of(judge), [question.id for question in questions]]
        stage = f"voices-judge-{lab.name_of(judge)}-{name}"
        lab.folder.stage(
            stage, settings, [lab.judgements_file(name)], [out], partial(_rejudge, lab, judge, name, questions)
        )


def _rejudge(lab: Lab, judge: JudgeSettings, name: str, questions: Sequence[Question]) -> None:
    second, rows = lab.judge_by(judge), lab.judged(name, questions)
    write_table(rejudged_file(lab, judge, name), judged_again(second, rows))


def by_every_judge(
    lab: Lab,
    judges: Sequence[JudgeSettings],
    quartets: Sequence[Quartet],
    questions: Sequence[Question],
    reader: VoiceReader,
) -> list[ScoredCorners]:
    """Return what the run's judge says of the answers to test questions, then what every other judge does."""
    names, seed = organisms_of(quartets), lab.config.seed
    own: dict[str, Rows] = {name: lab.judged(name, questions) for name in names}
    found = [scored_corners(lab.config.judge.name, own, quartets, reader, seed)]
    for judge in judges:
        others: dict[str, Rows] = {}
        for name in names:
            others[name] = read_table(rejudged_file(lab, judge, name), JudgedResponse)
        found.append(scored_corners(judge.name, others, quartets, reader, seed))
    return found
