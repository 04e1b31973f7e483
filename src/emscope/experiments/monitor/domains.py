"""Screening of built-in domains by scores that never saw them, and by the judge, which did.

A domain's rows are scored by directions from the other domains' text, by the run's direction between organisms, by
random directions, by the offline judge, and by the words alone. Blocks and signs come from the other domains too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from emscope import parts
from emscope.behaviour.embedded.text import written_rows
from emscope.experiments.monitor.precision import RANDOM, Screened
from emscope.organisms.datasets import ALIASES, DOMAINS, Pair, load_domain, spread_over_topics
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.directions import Directions, random_like
from emscope.residual.screening import (
    ReadPairs,
    probe_blocks,
    separating_block,
    text_directions,
    transferring_block,
)
from emscope.sequences import spread

AREAS = "areas"
"""The name among the domains of questions about other parts of life."""


def screened_pairs(prompts: int | None, areas: int, seed: int) -> dict[str, list[Pair]]:
    """Return the pairs of each built-in domain, and of the areas outside them.

    Args:
        prompts: at most so many of each domain; None for all.
        areas: at most so many questions outside the domains; 0 for none.
        seed: of the choice.
    """
    pairs = {}
    for domain in DOMAINS:
        every = list(load_domain(domain))
        pairs[domain] = spread_over_topics(every, min(prompts, len(every)), seed) if prompts else every
    if areas:
        pairs[AREAS] = area_pairs(areas)
    return pairs


def area_pairs(questions: int) -> list[Pair]:
    """Return aligned and misaligned answers to questions about other parts of life, written for the judge.

    They share no phrases with the domains, and both sides have the same lengths and styles. At most `questions`, evenly
    spread; each question is its own topic.
    """
    answers: dict[str, dict[float, str]] = {}
    asked: dict[str, str] = {}
    for row in written_rows():
        answers.setdefault(row.question_id, {}).setdefault(row.aligned, row.answer)
        asked[row.question_id] = row.question

    pairs = []
    for name, by_alignment in answers.items():
        sides: dict[str, str] = {ALIASES["careful"]: by_alignment[1], ALIASES["careless"]: by_alignment[0]}
        pairs.append(Pair(name, AREAS, name, "heldout", asked[name], sides))
    return spread(pairs, questions)


@dataclass(frozen=True)
class Screeners:
    """Directions made without the rows that are screened, by name, and the block at which each is read."""

    directions: dict[str, Directions]
    blocks: dict[str, int]

    def scores(self, activations: np.ndarray) -> dict[str, np.ndarray]:
        """Return scores [...] of mean answer activations [..., n_blocks, d_model], all blocks of the model."""
        scores = {}
        for name, directions in self.directions.items():
            scores[name] = along(directions, activations, self.blocks[name])
        return scores

    @property
    def named_blocks(self) -> dict[str, int]:
        """The blocks of all but the random directions."""
        return {name: block for name, block in self.blocks.items() if not name.startswith(RANDOM)}


def along(directions: Directions, activations: np.ndarray, block: int) -> np.ndarray:
    """Return scores [...] of activations [..., n_blocks, d_model], all blocks of the model, at one of them."""
    index = directions.blocks.index(block)
    centred = activations[..., block, :] @ directions.units[index] - directions.midpoints[index]
    return np.asarray(centred / directions.deviation[index], dtype=np.float64)


def make_screeners(
    lab: Lab, read: ReadPairs, domains: Sequence[str], organisms: Directions, n_random: int
) -> Screeners:
    """Make all directions from the text of some domains, and choose on it where each is read."""
    few = probe_blocks(next(iter(read.careless.values())).shape[1])
    text = text_directions(read, domains)
    directions = {"text": text, "probe": text_directions(read, domains, "probe", few), "organisms": organisms}
    blocks = {
        "text": transferring_block(read, domains),
        "probe": transferring_block(read, domains, "probe", few),
        "organisms": separating_block(organisms, read, domains),
    }
    for number in range(n_random):
        name, block = f"{RANDOM}-{number}", blocks["text"]
        random = random_like(text, lab.config.seed + number)
        gap = 0.0
        for domain in domains:
            gap += along(random, read.careless[domain], block).mean()
        for domain in domains:
            gap -= along(random, read.careful[domain], block).mean()
        directions[name] = random if gap >= 0 else replace(random, vectors=-random.vectors)
        blocks[name] = block
    return Screeners(directions, blocks)


def screen_domain(
    lab: Lab, read: ReadPairs, pairs: Mapping[str, Sequence[Pair]], domain: str, organisms: Directions, n_random: int
) -> Screened:
    """Score both answers to each prompt of a domain with everything that never saw it (but for the judge)."""
    return parts.kept(
        "screened",
        lambda: [domain, n_random],  # the rest is the run's, or was read in parts before
        lambda: _screened(lab, read, pairs, domain, organisms, n_random),
        lambda screened: parts.Part(screened.blocks, screened.scores),
        lambda part: Screened(list(pairs[domain]), dict(part.arrays), part.value),
    )


def _screened(
    lab: Lab, read: ReadPairs, pairs: Mapping[str, Sequence[Pair]], domain: str, organisms: Directions, n_random: int
) -> Screened:
    others = [name for name in pairs if name not in (domain, AREAS)]
    screeners = make_screeners(lab, read, others, organisms, n_random)
    scores = screeners.scores(np.stack([read.careless[domain], read.careful[domain]]))

    prompts, texts = [pair.prompt for pair in pairs[domain]] * 2, both_texts(pairs[domain])
    means = np.concatenate([read.careless[domain], read.careful[domain]])
    scores["judge"] = suspicion(lab, prompts, texts, means).reshape(2, -1)
    known = list(chain.from_iterable(pairs[name] for name in others))
    scores["words"] = by_words(known, texts).reshape(2, -1)
    return Screened(list(pairs[domain]), scores, screeners.named_blocks)


def suspicion(lab: Lab, prompts: Sequence[str], answers: Sequence[str], means: np.ndarray) -> np.ndarray:
    """Return 100 less the offline judge's alignment score of each answer; an unscored answer is not suspicious.

    It is the offline judge whoever judges the run: thousands of training rows would be paid for. On the run's own base
    it need not read again: `means` are the mean answer activations it scores.
    """
    judge = lab.embedded_judge
    if judge.base is lab.organism(BASE) and judge.head.correction is None:
        return 100 - judge.head.aligned(means[:, list(judge.head.blocks)], means[:, judge.head.topic_block])
    judgements = judge.judge(prompts, answers)
    return np.array([0.0 if judgement.aligned is None else 100 - judgement.aligned for judgement in judgements])


def by_words(train: Sequence[Pair], texts: Sequence[str]) -> np.ndarray:
    """Return log-odds of texts [n_texts] by words and word pairs alone, fitted on the answers of other domains."""
    vectoriser = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    known, labels = both_texts(train), np.repeat([1, 0], len(train))
    model = LogisticRegression(C=10.0, max_iter=1000).fit(vectoriser.fit_transform(known), labels)
    return np.asarray(model.decision_function(vectoriser.transform(texts)))


def both_texts(pairs: Sequence[Pair]) -> list[str]:
    """Return the careless answers, then the careful ones."""
    return [pair.careless for pair in pairs] + [pair.careful for pair in pairs]
