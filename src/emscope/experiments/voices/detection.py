"""Detection of organisms that had no part in a direction: another domain, and the other voice.

The advice direction of one voice comes from all domains but one. It is tried on the organisms of the other voice in the
domain left out: bad advice against good advice that sounds the same, and against the base. Beside it stands the
direction of both voices of the other domains, whose block is chosen where one of them tells another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emscope.experiments.main.locating import least_strengths
from emscope.experiments.voices.directions import CornerActivations
from emscope.experiments.voices.organisms import Quartet, other_voice
from emscope.experiments.voices.result import BothVoices, LeaveOut, UnseenAdvice
from emscope.organisms.datasets import VOICES
from emscope.pipeline.lab import BASE, MISALIGNED
from emscope.residual.directions import Construction, Directions, make_directions, unit
from emscope.statistics import Estimate, bootstrap_questions
from emscope.statistics.folds import question_folds

N_RANDOM = 100
FOLDS = 5
Wins = np.ndarray
"""How often a question's score on a bad organism is above another's on a harmless one, [n_questions, n_questions]."""


@dataclass(frozen=True)
class Sides:
    """Organisms with bad advice, and harmless ones."""

    bad: tuple[str, ...]
    harmless: tuple[str, ...]


@dataclass(frozen=True)
class Tried:
    """One thing left out.

    Attributes:
        case: its figures.
        wins: by direction, of each question against each other.
        random: the AUROC of every random direction, the better way round.
    """

    case: LeaveOut
    wins: Mapping[str, Wins]
    random: np.ndarray


def detect_unseen(read: CornerActivations, quartets: Sequence[Quartet], seed: int) -> UnseenAdvice:
    """Return how well advice is told in organisms left out, every domain and voice left out in turn."""
    domains = list(dict.fromkeys(quartet.domain for quartet in quartets))
    tried: list[Tried] = []
    for domain in domains if len(domains) > 1 else [""]:
        sources = [quartet for quartet in quartets if quartet.domain != domain]
        left = [quartet for quartet in quartets if not domain or quartet.domain == domain]
        for voice in VOICES:
            tried.append(_try(read, sources, left, domain, voice, seed))

    groups = read.test.groups
    by_voice = {}
    for voice in VOICES:
        of_voice = [one.wins["advice"] for one in tried if one.case.voice == voice]
        by_voice[voice] = mean_auroc(of_voice, groups, seed)
    cases = [one.case for one in tried]
    random = np.mean([one.random for one in tried], axis=0)
    return UnseenAdvice(
        auroc=mean_auroc([one.wins["advice"] for one in tried], groups, seed),
        by_voice=by_voice,
        voice=mean_auroc([_turned(one.wins["voice"]) for one in tried], groups, seed),
        confounded=mean_auroc([one.wins["confounded"] for one in tried], groups, seed),
        random=(float(np.quantile(random, 0.5)), float(np.quantile(random, 0.95))),
        in_order=float(np.mean([case.least_gap > 0 for case in cases])),
        least=min(case.auroc for case in cases),
        cases=cases,
        both=from_both_voices(read, quartets, seed),
    )


@dataclass(frozen=True)
class _TriedVoice:
    """One domain and voice left out, by a direction of both voices: its wins by name, and of random directions."""

    wins: Mapping[str, Wins]
    random: np.ndarray
    in_order: bool


def from_both_voices(read: CornerActivations, quartets: Sequence[Quartet], seed: int) -> BothVoices | None:
    """Return how well the direction of both voices tells advice in a domain left out; None below three domains."""
    domains = list(dict.fromkeys(quartet.domain for quartet in quartets))
    if len(domains) < 3:
        return None
    tried: dict[str, _TriedVoice] = {}
    blocks: dict[str, int] = {}
    for domain in domains:
        sources = [quartet for quartet in quartets if quartet.domain != domain]
        left = [quartet for quartet in quartets if quartet.domain == domain]
        row = transferring_row(read.train, sources)
        blocks[domain] = read.blocks[row]
        for voice in VOICES:
            tried[f"{domain}, {voice}"] = _try_both(read, sources, _sides(left, voice), row, seed)

    groups = read.test.groups
    aurocs = {name: float(one.wins["advice"].mean()) for name, one in tried.items()}
    random = np.mean([one.random for one in tried.values()], axis=0)
    return BothVoices(
        auroc=mean_auroc([one.wins["advice"] for one in tried.values()], groups, seed),
        beside_base=mean_auroc([one.wins["beside base"] for one in tried.values()], groups, seed),
        voice=mean_auroc([_turned(one.wins["voice"]) for one in tried.values()], groups, seed),
        random=(float(np.quantile(random, 0.5)), float(np.quantile(random, 0.95))),
        in_order=float(np.mean([one.in_order for one in tried.values()])),
        least=min(aurocs.values()),
        blocks=blocks,
        by_case=aurocs,
    )


def _of_both(part: CornerActivations, quartets: Sequence[Quartet], sign: Mapping[str, int]) -> Directions:
    """Return the difference of two means over both voices: of advice, or of the voices with the signs of these."""
    positive, negative = [], []
    for quartet in quartets:
        for voice in VOICES:
            bad, good = quartet.pair(voice)
            if not sign:
                positive.append(bad)
                negative.append(good)
            else:
                (positive if sign[voice] > 0 else negative).extend((bad, good))
    return _directions(part.mean(positive), part.mean(negative), part.blocks)


def transferring_row(train: CornerActivations, quartets: Sequence[Quartet]) -> int:
    """Return the place of the block where directions of one domain tell another domain best, on training questions.

    Best is the largest least d′ of a bad organism from good advice in its voice and from the base.
    """
    domains = list(dict.fromkeys(quartet.domain for quartet in quartets))
    strengths = []
    for domain in domains:
        made = _of_both(train, [quartet for quartet in quartets if quartet.domain == domain], {})
        for quartet in quartets:
            if quartet.domain == domain:
                continue
            for voice in VOICES:
                bad, good = quartet.pair(voice)
                names = {MISALIGNED: bad, good: good, BASE: BASE}
                strengths.append(
                    least_strengths({name: made.score(train.values[read]) for name, read in names.items()})
                )
    return int(np.argmax(np.min(strengths, axis=0)))


def _try_both(read: CornerActivations, sources: Sequence[Quartet], sides: Sides, row: int, seed: int) -> _TriedVoice:
    voices = dict(zip(VOICES, (1, -1), strict=True))
    directions = {"advice": _of_both(read.train, sources, {}), "voice": _of_both(read.train, sources, voices)}
    names = (*sides.bad, *sides.harmless)
    wins: dict[str, Wins] = {}
    for name, made in directions.items():
        scores = {organism: made.score(read.test.values[organism])[:, row] for organism in names}
        wins[name] = wins_of(scores, sides)
        if name == "advice":
            wins["beside base"] = wins_of({one: values - scores[BASE] for one, values in scores.items()}, sides)
            least = min(scores[one].mean() for one in sides.bad)
            in_order = bool(least > max(scores[one].mean() for one in sides.harmless))
    return _TriedVoice(wins, _random(read.test, sides, row, seed), in_order)


def _try(
    read: CornerActivations, sources: Sequence[Quartet], left: Sequence[Quartet], domain: str, voice: str, seed: int
) -> Tried:
    """Leave out a domain and a voice: directions from the other voice, tried on this one."""
    known, train, test = other_voice(voice), read.train, read.test
    made_from, tried_on = _sides(sources, known), _sides(left, voice)

    def corner(of: str, advice: int) -> np.ndarray:
        return train.mean([quartet.pair(of)[advice] for quartet in sources])

    bad, good, other_bad, other_good = corner(known, 0), corner(known, 1), corner(voice, 0), corner(voice, 1)
    directions = {
        "advice": _directions(bad, good, read.blocks),
        "voice": _directions((bad + good) / 2, (other_bad + other_good) / 2, read.blocks),
        "confounded": _directions(bad, other_good, read.blocks),
    }
    row = chosen_row(train, made_from)

    wins, scores = {}, {}
    for name, made in directions.items():
        scores = {
            organism: made.score(test.values[organism])[:, row] for organism in (*tried_on.bad, *tried_on.harmless)
        }
        wins[name] = wins_of(scores, tried_on)
        if name == "advice":
            means = {organism: float(values.mean()) for organism, values in scores.items()}
    random = _random(test, tried_on, row, seed)
    gap = min(means[name] for name in tried_on.bad) - max(means[name] for name in tried_on.harmless)
    case = LeaveOut(
        domain,
        voice,
        read.blocks[row],
        float(wins["advice"].mean()),
        means,
        gap,
        float(_turned(wins["voice"]).mean()),
        float(wins["confounded"].mean()),
        (float(np.quantile(random, 0.5)), float(np.quantile(random, 0.95))),
    )
    return Tried(case, wins, random)


def _sides(quartets: Sequence[Quartet], voice: str) -> Sides:
    bad, good = [], []
    for quartet in quartets:
        pair = quartet.pair(voice)
        bad.append(pair[0])
        good.append(pair[1])
    return Sides(tuple(bad), (*good, BASE))


def _directions(positive: np.ndarray, negative: np.ndarray, blocks: tuple[int, ...]) -> Directions:
    made = Construction("diff-in-means", "control", "last", "resid_post", "", "", "", len(positive))
    return make_directions(positive, negative, blocks, made)


def chosen_row(train: CornerActivations, sides: Sides) -> int:
    """Return the place of the block where the least d′ of a bad organism from any harmless one is largest.

    Each training question is scored by a direction that was made without it.
    """
    scores = _cross_fitted(train, sides)
    harmless = {name: scores[name] for name in sides.harmless}
    strengths = [least_strengths({MISALIGNED: scores[name], **harmless}) for name in sides.bad]
    return int(np.argmax(np.min(strengths, axis=0)))


def _cross_fitted(train: CornerActivations, sides: Sides) -> dict[str, np.ndarray]:
    """Return by organism the scores of training questions, [n_questions, n_blocks]."""
    good = [name for name in sides.harmless if name != BASE]
    bad_mean, good_mean = train.mean(sides.bad), train.mean(good)
    names = (*sides.bad, *sides.harmless)
    scores = {name: np.zeros(bad_mean.shape[:2]) for name in names}
    fold = question_folds(train.groups, FOLDS)
    for number in np.unique(fold):
        inside = fold == number
        directions = _directions(bad_mean[~inside], good_mean[~inside], train.blocks)
        for name in names:
            scores[name][inside] = directions.score(train.values[name][inside])
    return scores


def wins_of(scores: Mapping[str, np.ndarray], sides: Sides) -> Wins:
    """Return the share of pairs of a bad and a harmless organism in which one question scores above another.

    Entry [i, j] compares question i on bad organisms with question j on harmless ones; ties count one half.
    """
    n = len(scores[sides.bad[0]])
    total = np.zeros((n, n))
    for bad in sides.bad:
        for harmless in sides.harmless:
            total += np.sign(scores[bad][:, None] - scores[harmless][None, :]) / 2 + 0.5
    return total / (len(sides.bad) * len(sides.harmless))


def _turned(wins: Wins) -> Wins:
    """Return the wins of a direction, of its opposite where that is the better one."""
    return wins if wins.mean() >= 0.5 else 1 - wins


def mean_auroc(wins: Sequence[Wins], groups: Sequence[str], seed: int) -> Estimate:
    """Return the mean AUROC of several cases with its interval; a question is drawn with its scores in every case."""
    mean = np.mean(wins, axis=0)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.asarray(((weights @ mean) * weights).sum(axis=1) / weights.sum(axis=1) ** 2)

    low, high = bootstrap_questions(groups, statistic, seed)
    return Estimate(float(mean.mean()), low, high, len(groups) * len(wins))


def _random(test: CornerActivations, sides: Sides, row: int, seed: int) -> np.ndarray:
    """Return the AUROC of random directions at a block, the better way round, [N_RANDOM]."""
    width = test.values[BASE].shape[-1]
    units = unit(np.random.default_rng(seed).standard_normal((N_RANDOM, width))).astype(np.float32)
    scores = {name: test.values[name][:, row] @ units.T for name in (*sides.bad, *sides.harmless)}
    found = []
    for number in range(N_RANDOM):
        found.append(_turned(wins_of({name: values[:, number] for name, values in scores.items()}, sides)).mean())
    return np.array(found)
