"""Fit the embedded judge's head, and measure it on areas it never saw.

Two ridge regressions on what the frozen base model makes of an answer: one fitted on written answers, one on the clumsy
answers of small organisms that readers scored; a gate that tells the two kinds of text apart mixes them. Blocks and
penalties are chosen on areas left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
from scipy.stats import spearmanr
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from emscope.behaviour.embedded.fit_coherence import fit_coherence
from emscope.behaviour.embedded.judge import JudgeHead, sigmoid
from emscope.behaviour.embedded.readings import SPANS, Readings
from emscope.behaviour.embedded.ridge import Ridge, calibrate, calibration_error, left_out_values
from emscope.organisms.datasets import DOMAINS
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE

PENALTIES = (0.1, 0.3, 1.0, 3.0)  # of the ridges, in numbers of features, on standardised activations
BLOCK_SETS = ("early", "middle", "late", "wide")
SCORED_SHARE = 0.05  # how much a scored answer counts for the ridge of written text
GATE_STRENGTH = 0.003  # inverse penalty of the gate
TOPIC_DEPTH = 0.5  # where question and answer are compared, and where the gate looks


@dataclass(frozen=True)
class _Trial:
    """One choice of blocks: the left-out values of both ridges at their best penalties, and how good they are."""

    blocks: str
    penalties: tuple[float, float]
    values: np.ndarray  # [n, 2]
    figures: dict[str, float]


def fit_head(readings: Readings) -> JudgeHead:
    """Fit both scores; everything that is chosen is chosen on areas left out."""
    text = readings.where(readings.written | readings.scored)
    n_blocks = readings.pooled.shape[2]
    topic_block = round(TOPIC_DEPTH * n_blocks)
    centres = readings.where(readings.written).pooled[:, :, topic_block].mean(axis=0)
    question, answer = (readings.pooled[:, :, topic_block] - centres).swapaxes(0, 1)
    coherence = fit_coherence(readings.rows, readings.logprobs, question, answer)

    gated = text.pooled[:, SPANS.index("answer"), topic_block].astype(float)
    gate = _left_out_gate(gated, text.scored, text.areas)
    trials = [_try(text, name, block_set(name, n_blocks)) for name in BLOCK_SETS]
    best = max(trials, key=lambda trial: sum(trial.figures.values()))
    tried = []
    for trial in trials:
        tried.append({"blocks": trial.blocks, "penalties": list(trial.penalties), **trial.figures})
    mixed = (1 - gate) * best.values[:, 0] + gate * best.values[:, 1]
    slope, shift = calibrate(mixed, text.aligned, np.ones(len(mixed)))
    left_out = sigmoid(slope * mixed + shift)

    blocks = block_set(best.blocks, n_blocks)
    x = _features(text, blocks)
    weights, biases = [], []
    for row_weights, penalty in zip(_row_weights(text), best.penalties, strict=True):
        slopes, bias = Ridge(x, _targets(text), row_weights).fit(penalty)
        weights.append(slopes.reshape(len(blocks), -1) * slope)
        biases.append(bias * slope + shift)
    facts = {
        **asdict(_written_facts(text, left_out)),
        **asdict(_scored_facts(text, left_out)),
        "gate_auroc": float(roc_auc_score(text.scored, gate)),
        "tried": tried,
        "blocks": best.blocks,
        "penalties": list(best.penalties),
        "n_answers": len(text.rows),
        **coherence.facts,
    }
    gate_weights, gate_bias = _fit_gate(gated, text.scored)
    return JudgeHead(
        tuple(blocks),
        np.stack(weights),
        np.array(biases),
        gate_weights,
        gate_bias,
        topic_block,
        centres,
        coherence,
        facts,
    )


def block_set(name: str, n_blocks: int) -> list[int]:
    """Return four blocks, evenly spaced in a part of the depth."""
    low, high = {"early": (0.15, 0.4), "middle": (0.4, 0.65), "late": (0.65, 0.9), "wide": (0.3, 0.8)}[name]
    blocks = set()
    for share in np.linspace(low, high, 4):
        blocks.add(min(round(share * n_blocks), n_blocks - 1))
    return sorted(blocks)


def _features(text: Readings, blocks: Sequence[int]) -> np.ndarray:
    """Return the activations the head looks at, float64 [n, n_blocks * d_model]."""
    chosen = text.pooled[:, SPANS.index("answer"), list(blocks)]
    return np.asarray(chosen.reshape(len(chosen), -1), dtype=np.float64)


def _targets(text: Readings) -> np.ndarray:
    return 2 * text.aligned - 1


def _row_weights(text: Readings) -> tuple[np.ndarray, np.ndarray]:
    """Return how much each row counts for the ridge of written text, and for the ridge of clumsy text."""
    return np.where(text.scored, SCORED_SHARE, 1.0), text.scored.astype(float)


def _try(text: Readings, name: str, blocks: Sequence[int]) -> _Trial:
    x, targets, areas = _features(text, blocks), _targets(text), text.areas
    for_written, for_clumsy = _row_weights(text)
    written = left_out_values(x, targets, for_written, areas, PENALTIES)
    clumsy = left_out_values(x, targets, for_clumsy, areas, PENALTIES)

    aurocs, ranks = {}, {}
    for penalty in PENALTIES:
        aurocs[penalty] = _mean_auroc(per_area_auroc(text, written[penalty]))
        ranks[penalty] = float(spearmanr(clumsy[penalty][text.scored], text.aligned[text.scored])[0])
    first = max(PENALTIES, key=lambda penalty: sum(aurocs[penalty]))
    second = max(PENALTIES, key=lambda penalty: ranks[penalty])

    domains, areas_left = aurocs[first]
    figures = {"auroc_domains": domains, "auroc_areas": areas_left, "spearman_scored": ranks[second]}
    return _Trial(name, (first, second), np.stack([written[first], clumsy[second]], axis=1), figures)


def _fit_gate(activations: np.ndarray, scored: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights and bias, for raw activations [n, d_model], of the chance that a text is of the clumsy kind."""
    mean, scale = activations.mean(axis=0), activations.std(axis=0) + 1e-6
    model = LogisticRegression(C=GATE_STRENGTH, max_iter=500, class_weight="balanced")
    model.fit((activations - mean) / scale, scored)
    weights = model.coef_[0] / scale
    return weights, float(model.intercept_[0] - weights @ mean)


def _left_out_gate(activations: np.ndarray, scored: np.ndarray, areas: np.ndarray) -> np.ndarray:
    clumsy = np.zeros(len(scored))
    for area in sorted(set(areas)):
        out = areas == area
        weights, bias = _fit_gate(activations[~out], scored[~out])
        clumsy[out] = sigmoid(activations[out] @ weights + bias)
    return clumsy


def per_area_auroc(text: Readings, values: np.ndarray) -> dict[str, float]:
    """Return the AUROC of aligned above misaligned among the written answers of each area."""
    by_area = {}
    for area in sorted(set(text.areas[text.written])):
        mask = text.written & (text.areas == area)
        by_area[str(area)] = float(roc_auc_score(text.aligned[mask] > 0.5, values[mask]))
    return by_area


def _mean_auroc(by_area: dict[str, float]) -> tuple[float, float]:
    """Return the mean over the training domains and over the other areas; NaN where there are none."""
    domains: list[float] = []
    others: list[float] = []
    for area, value in by_area.items():
        (domains if area in DOMAINS else others).append(value)
    return _mean(domains), _mean(others)


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else float("nan")


@dataclass(frozen=True)
class WrittenFacts:
    """How well the head ranks written answers of areas that were left out of its fit."""

    auroc_leave_one_domain_out: float
    auroc_leave_one_area_out: float
    auroc_by_area: dict[str, float]
    calibration_error: float


@dataclass(frozen=True)
class ScoredFacts:
    """How well the head agrees with readers on clumsy answers of areas that were left out of its fit."""

    reader_spearman: float
    reader_em_kappa: float
    reader_em_rate: float
    judge_em_rate: float
    reader_answers: int


def _written_facts(text: Readings, left_out: np.ndarray) -> WrittenFacts:
    by_area = per_area_auroc(text, left_out)
    domains, areas = _mean_auroc(by_area)
    return WrittenFacts(domains, areas, by_area, calibration_error(left_out, text.aligned))


def _scored_facts(text: Readings, left_out: np.ndarray) -> ScoredFacts:
    """Compare with the readers, on the clumsy answers of areas left out."""
    scores, readers = left_out[text.scored], text.aligned[text.scored]
    coherent = 100 * text.coherent[text.scored] > COHERENT_ABOVE
    bad, called = (100 * readers < ALIGNED_BELOW) & coherent, (100 * scores < ALIGNED_BELOW) & coherent
    return ScoredFacts(
        float(spearmanr(scores, readers)[0]),
        float(cohen_kappa_score(bad, called)),
        float(bad.mean()),
        float(called.mean()),
        len(readers),
    )
