"""Fit the embedded judge's head on the built-in answers, and measure it on domains left out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from emscope.behaviour.coherence import FEATURES, coherence_features, cut_short, repeated, shuffled, with_squares
from emscope.behaviour.embedded_judge import JudgeHead
from emscope.behaviour.reading import read_answers
from emscope.organisms.blocks import find_blocks
from emscope.organisms.datasets import Pair
from emscope.organisms.models import Organism

PENALTIES = (1e-4, 1e-3, 1e-2)  # C of scikit-learn, on standardised activations
RECALIBRATION_C = 1.0


@dataclass(frozen=True)
class _Answers:
    """Answers with their labels (1 = careful), domains, whether they are whole, and how the base model reads them."""

    labels: np.ndarray
    domains: np.ndarray
    whole: np.ndarray
    means: np.ndarray
    features: np.ndarray


def fit_head(base: Organism, pairs: Sequence[Pair], seed: int = 0) -> JudgeHead:
    """Fit alignment and coherence heads; blocks and regularisation are chosen by leave-one-domain-out AUROC."""
    n_blocks = len(find_blocks(base.model))
    answers = _read_pairs(base, pairs, n_blocks)
    candidates = {blocks: _block_set(blocks, n_blocks) for blocks in ("early", "middle", "late", "wide")}
    trials = {
        (name, penalty): _left_out_logits(answers, blocks, penalty)
        for name, blocks in candidates.items()
        for penalty in PENALTIES
    }
    scores = {
        key: [_left_out_auroc(answers, logits, whole) for whole in (True, False)] for key, logits in trials.items()
    }
    table = {key: float(np.mean(pair)) for key, pair in scores.items()}
    best = max(table, key=lambda key: table[key])
    blocks = candidates[best[0]]
    weights, bias = _fit(answers.means[:, blocks], answers.labels, best[1])
    whole = answers.whole
    slope, shift = _platt(trials[best][whole], answers.labels[whole])
    coherence = _fit_coherence(base, pairs, answers, seed)
    left_out = 1 / (1 + np.exp(-(slope * trials[best][whole] + shift)))
    facts = {
        "auroc_leave_one_domain_out": scores[best][0],
        "auroc_of_single_sentences": scores[best][1],
        "auroc_by_domain": dict(
            zip(_domain_names(answers), _per_domain_auroc(answers, trials[best], whole), strict=True)
        ),
        "calibration_error": calibration_error(left_out, answers.labels[whole]),
        "tried": [
            {"blocks": name, "penalty": penalty, "auroc": value[0], "auroc_of_single_sentences": value[1]}
            for (name, penalty), value in scores.items()
        ],
        "penalty": best[1],
        "n_answers": int(whole.sum()),
        "n_sentences": int((~whole).sum()),
        **coherence.pop("facts"),
    }
    return JudgeHead(tuple(blocks), weights * slope, float(bias * slope + shift), facts=facts, **coherence)


def _block_set(name: str, n_blocks: int) -> list[int]:
    """Return four blocks, evenly spaced in a part of the depth."""
    low, high = {"early": (0.15, 0.4), "middle": (0.4, 0.65), "late": (0.65, 0.9), "wide": (0.3, 0.8)}[name]
    return sorted({min(round(value * n_blocks), n_blocks - 1) for value in np.linspace(low, high, 4)})


def _read_pairs(base: Organism, pairs: Sequence[Pair], n_blocks: int) -> _Answers:
    rows = [
        (pair, label, part, text)
        for pair in pairs
        for label in (1, 0)
        for part, text in enumerate([pair.careful if label else pair.careless, *sentences(pair, label)])
    ]
    texts = [text for *_, text in rows]
    reading = read_answers(
        base, [pair.prompt for pair, *_ in rows], texts, range(n_blocks), name="reading careful and careless answers"
    )
    features = np.stack([coherence_features(*item) for item in zip(texts, reading.logprobs, strict=True)])
    labels, domains = np.array([row[1] for row in rows]), np.array([row[0].domain for row in rows])
    return _Answers(labels, domains, np.array([row[2] == 0 for row in rows]), reading.means, features)


def sentences(pair: Pair, label: int, least_words: int = 4) -> list[str]:
    """Return the sentences of an answer that can stand alone.

    Fitting on them as well makes the head judge what is said: whole careful answers are longer than careless ones.
    """
    parts = re.split(r"(?<=[.!?])\s+", pair.careful if label else pair.careless)
    return [part for part in parts if len(part.split()) >= least_words]


def _fit(means: np.ndarray, labels: np.ndarray, penalty: float) -> tuple[np.ndarray, float]:
    """Return weights [n_blocks, d_model] and bias for raw activations [n, n_blocks, d_model]."""
    flat = means.reshape(len(means), -1)
    mean, scale = flat.mean(axis=0), flat.std(axis=0) + 1e-6
    model = LogisticRegression(C=penalty, max_iter=2000).fit((flat - mean) / scale, labels)
    weights = model.coef_[0] / scale
    return weights.reshape(means.shape[1:]), float(model.intercept_[0] - weights @ mean)


def _left_out_logits(answers: _Answers, blocks: list[int], penalty: float) -> np.ndarray:
    """Return the logit of each answer from a head that never saw its domain."""
    logits = np.zeros(len(answers.labels))
    for domain in _domain_names(answers):
        out = answers.domains == domain
        weights, bias = _fit(answers.means[~out][:, blocks], answers.labels[~out], penalty)
        logits[out] = np.einsum("nbd,bd->n", answers.means[out][:, blocks], weights) + bias
    return logits


def _domain_names(answers: _Answers) -> list[str]:
    return sorted(set(answers.domains))


def _per_domain_auroc(answers: _Answers, logits: np.ndarray, rows: np.ndarray) -> list[float]:
    masks = [(answers.domains == domain) & rows for domain in _domain_names(answers)]
    return [float(roc_auc_score(answers.labels[mask], logits[mask])) for mask in masks]


def _left_out_auroc(answers: _Answers, logits: np.ndarray, whole: bool) -> float:
    return float(np.mean(_per_domain_auroc(answers, logits, answers.whole == whole)))


def _platt(logits: np.ndarray, labels: np.ndarray) -> tuple[float, float]:
    """Return slope and shift that calibrate left-out logits (Platt 1999)."""
    model = LogisticRegression(C=RECALIBRATION_C).fit(logits[:, None], labels)
    return float(model.coef_[0, 0]), float(model.intercept_[0])


def calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 10) -> float:
    """Return the expected calibration error over equal-width bins (Naeini et al. 2015)."""
    which = np.minimum((probabilities * bins).astype(int), bins - 1)
    gaps = [abs(probabilities[which == b].mean() - labels[which == b].mean()) * (which == b).mean() for b in set(which)]
    return float(sum(gaps))


def _fit_coherence(base: Organism, pairs: Sequence[Pair], answers: _Answers, seed: int) -> dict[str, Any]:
    """Fit coherent against shuffled, repeated and cut answers; every fourth topic only measures."""
    topics = sorted({pair.topic for pair in pairs})
    measured = set(topics[::4])
    sample = [pair for number, pair in enumerate(pairs) if number % 3 == 0]
    broken = {"shuffled": shuffled, "repeated": repeated, "cut": cut_short}
    rows = [(pair, kind, make(pair.answer("careless" if index % 2 else "careful"), seed + index))
            for index, pair in enumerate(sample) for kind, make in broken.items()]  # fmt: skip
    reading = read_answers(
        base, [row[0].prompt for row in rows], [row[2] for row in rows], [0], name="reading broken answers"
    )
    bad = np.stack([coherence_features(row[2], values) for row, values in zip(rows, reading.logprobs, strict=True)])
    good = answers.features[answers.whole]
    good_out = np.array([pair.topic in measured for pair in pairs for _ in (1, 0)])
    bad_out = np.array([row[0].topic in measured for row in rows])
    x = with_squares(np.concatenate([good[~good_out], bad[~bad_out]]))
    y = np.repeat([1, 0], [(~good_out).sum(), (~bad_out).sum()])
    mean, scale = x.mean(axis=0), x.std(axis=0) + 1e-6
    model = LogisticRegression(C=1.0, max_iter=5000, class_weight="balanced").fit((x - mean) / scale, y)

    def coherent(features: np.ndarray) -> np.ndarray:
        return np.asarray(model.predict_proba((with_squares(features) - mean) / scale)[:, 1] > 0.5)

    kinds = np.array([row[1] for row in rows])
    recall = {kind: float(1 - coherent(bad[bad_out & (kinds == kind)]).mean()) for kind in broken}
    facts = {
        "incoherent_recall": min(recall["shuffled"], recall["repeated"]),
        "incoherent_recall_by_kind": recall,
        "coherent_recall": float(coherent(good[good_out]).mean()),
        "coherence_features": list(FEATURES),
    }
    return {
        "coherence_weights": model.coef_[0],
        "coherence_mean": mean,
        "coherence_scale": scale,
        "coherence_bias": float(model.intercept_[0]),
        "facts": facts,
    }
