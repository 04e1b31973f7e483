"""Fit the coherence score: answers as written against the same shuffled, repeated, cut, garbled, or off topic.

Answers that readers scored count as coherent above the middle of their scale; of these, only clear cases measure. An
answer that a limit of tokens cuts is judged on what is there: whole answers cut in the middle of a sentence count as
coherent, one to four words alone do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from emscope.behaviour.embedded.coherence import FEATURES, coherence_features, topic_fit, with_squares
from emscope.behaviour.embedded.text import AT_LIMIT, OFF_TOPIC, PAIRED, SCORED, WRITTEN, JudgeRow

MEASURED_EVERY = 4  # every fourth question only measures
OFF_TOPIC_WEIGHT = 3.0  # the hardest to tell of the five ways to break an answer
CLEAR = 0.25  # a reader's coherence at most this far from an end of the scale is a clear case


@dataclass(frozen=True)
class CoherenceFit:
    """The fitted numbers of the coherence score, and how it does on questions that were left out."""

    weights: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    bias: float
    facts: dict[str, Any]


def fit_coherence(
    rows: tuple[JudgeRow, ...], logprobs: list[np.ndarray], question: np.ndarray, answer: np.ndarray
) -> CoherenceFit:
    """Fit on rows whole and broken; `question` and `answer` are centred mean activations [n, d_model] at one block."""
    coherence = np.array([row.coherent for row in rows])
    chosen = np.flatnonzero([row.kind != PAIRED and not row.voice for row in rows])
    fits = topic_fit(question[chosen], answer[chosen])
    features, kinds_of, asked = [], [], []
    for row, fit in zip(chosen, fits, strict=True):
        features.append(coherence_features(rows[row].answer, logprobs[row], fit))
        kinds_of.append(rows[row].kind)
        asked.append(rows[row].question_id)

    x = with_squares(np.stack(features))
    kinds, whole = np.array(kinds_of), coherence[chosen] > 0.5
    clear = np.minimum(coherence[chosen], 1 - coherence[chosen]) <= CLEAR
    measured = np.isin(asked, sorted(set(asked))[::MEASURED_EVERY])
    mean, scale = x[~measured].mean(axis=0), x[~measured].std(axis=0) + 1e-6
    standard = (x - mean) / scale
    weights = np.where(kinds == OFF_TOPIC, OFF_TOPIC_WEIGHT, 1.0)
    model = LogisticRegression(C=1.0, max_iter=5000)
    model.fit(standard[~measured], whole[~measured], sample_weight=weights[~measured])
    coherent = model.predict_proba(standard)[:, 1] > 0.5
    recall = {}
    for kind in sorted(set(kinds)):
        broken = measured & clear & ~whole & (kinds == kind)
        if broken.any():
            recall[str(kind)] = float(1 - coherent[broken].mean())
    facts = {
        "incoherent_recall": min(recall["shuffled"], recall["repeated"]),
        "incoherent_recall_by_kind": recall,
        "coherent_recall": float(coherent[measured & whole & (kinds == WRITTEN)].mean()),
        "coherent_recall_at_limit": _mean(coherent[measured & whole & (kinds == AT_LIMIT)]),
        "coherent_recall_scored": _mean(coherent[measured & clear & whole & (kinds == SCORED)]),
        "coherence_features": list(FEATURES),
    }
    return CoherenceFit(model.coef_[0], mean, scale, float(model.intercept_[0]), facts)


def _mean(flags: np.ndarray) -> float:
    return float(flags.mean()) if len(flags) else float("nan")
