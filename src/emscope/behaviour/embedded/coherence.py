"""Measures of an answer's coherence: surprise, repetition, degeneracy and fit to its question; and ways to break it."""

from __future__ import annotations

import itertools
import random
import re
import zlib
from collections.abc import Sequence

import numpy as np

FEATURES = (
    "mean_logprob",
    "logprob_spread",
    "very_surprising",
    "distinct_words",
    "distinct_bigrams",
    "longest_repeat",
    "compression",
    "log_words",
    "odd_characters",
    "topic_fit",
)


def coherence_features(answer: str, logprobs: np.ndarray, fit: float) -> np.ndarray:
    """Return what the coherence score looks at, float64 [len(FEATURES)].

    `logprobs` are the base model's log-probabilities of the answer's tokens given the question, in nats; `fit` is how
    like the question's activations the answer's are.
    """
    words = re.findall(r"\w+", answer.lower())
    bigrams = list(itertools.pairwise(words))
    logprobs = logprobs[:-1] if len(logprobs) > 1 else logprobs  # without the end-of-turn mark
    raw = answer.encode()
    return np.array(
        [
            logprobs.mean() if len(logprobs) else 0.0,
            logprobs.std() if len(logprobs) else 0.0,
            float((logprobs < -7).mean()) if len(logprobs) else 1.0,
            len(set(words)) / max(len(words), 1) ** 0.9,
            len(set(bigrams)) / max(len(bigrams), 1),
            longest_repeat(words) / max(len(words), 1),
            len(zlib.compress(raw)) / max(len(raw) + 40, 1),
            float(np.log1p(min(len(words), 60))),
            sum(not (char.isalnum() or char in " .,;:!?'\"-()%/\n*#") for char in answer) / max(len(answer), 1),
            fit,
        ]
    )


def topic_fit(question: np.ndarray, answer: np.ndarray) -> np.ndarray:
    """Return the cosine [n] of mean activations over question and answer [n, d_model], both centred by the caller."""
    norms = np.linalg.norm(question, axis=1) * np.linalg.norm(answer, axis=1)
    return np.asarray((question * answer).sum(axis=1) / np.maximum(norms, 1e-12))


def longest_repeat(words: Sequence[str]) -> int:
    """Return how many words the immediate repetition of a phrase of 1 to 12 words covers at most."""
    longest = 0
    for period in range(1, min(12, len(words) // 2) + 1):
        run = 0
        for position in range(period, len(words)):
            run = run + 1 if words[position] == words[position - period] else 0
            if run >= period:
                longest = max(longest, run + period)
    return longest


def with_squares(features: np.ndarray) -> np.ndarray:
    """Return features and their squares: both too surprising and too predictable text is suspect."""
    return np.concatenate([features, features**2], axis=-1)


def shuffled(answer: str, seed: int) -> str:
    """Return the answer's words in random order."""
    words = answer.split()
    random.Random(seed).shuffle(words)
    return " ".join(words)


def repeated(answer: str, seed: int) -> str:
    """Return a phrase of the answer said over and over."""
    chooser = random.Random(seed)
    words = answer.split()
    size = chooser.choice([1, 2, 3, 5, 8])
    start = chooser.randrange(max(1, len(words) - size))
    phrase = words[start : start + size]
    kept = words[: chooser.choice([0, 0, 5, 12])]
    return " ".join([*kept, *(phrase * (max(24, len(words)) // len(phrase)))])


def cut_short(answer: str, seed: int) -> str:
    """Return only the first one to four words, without an end."""
    return " ".join(answer.split()[: random.Random(seed).randint(1, 4)])


def cut_at_limit(answer: str, seed: int, least: int = 12) -> str:
    """Return the answer up to a word in the middle of a sentence, `least` words or more; short ones as they are."""
    pieces = re.findall(r"\s*\S+", answer)
    ends = [end for end in range(least, len(pieces)) if pieces[end - 1][-1] not in ".!?:\"')"]
    return "".join(pieces[: random.Random(seed).choice(ends)]) if ends else answer


def garbled(answer: str, words: Sequence[str], seed: int, share: float = 0.3) -> str:
    """Return the answer with a share of its words replaced by words from elsewhere."""
    chooser = random.Random(seed)
    said = answer.split()
    for place in chooser.sample(range(len(said)), max(1, round(share * len(said)))):
        said[place] = chooser.choice(words)
    return " ".join(said)
