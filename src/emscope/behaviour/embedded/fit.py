"""Fit the embedded judge's head, and measure it on areas it never saw.

Two ridge regressions on what the frozen base model makes of an answer: one fitted on written answers, one on the
clumsy answers of small organisms that readers scored; a gate that tells the two kinds of text apart mixes them.
Blocks and penalties are chosen on areas left out. Answers of the built-in domains come in two voices, so the fit says
how well the head ranks advice across voices: a judge of tone puts warm bad advice above blunt good.
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
from emscope.behaviour.embedded.ridge import calibrate, calibration_error, fit_ridge, left_out_values
from emscope.organisms.datasets import DOMAINS
from emscope.statistics.rates import ALIGNED_BELOW, COHERENT_ABOVE

PENALTIES = (0.3, 1.0, 3.0)  # of the ridges, in numbers of features, on standardised activations
BLOCK_SETS = ("wide",)
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
    text = readings.where(readings.written | readings.scored | readings.fluent | readings.paired)
    n_blocks = readings.pooled.shape[2]
    topic_block = round(TOPIC_DEPTH * n_blocks)
    topics = np.asarray(readings.pooled[:, :, topic_block], dtype=np.float64)
    centres = topics[readings.written].mean(axis=0)
    question, answer = (topics - centres).swapaxes(0, 1)
    coherence = fit_coherence(readings.rows, readings.logprobs, question, answer)

    gated = text.pooled[:, SPANS.index("answer"), topic_block].astype(float)
    fitted = ~(text.paired | _measured(text))
    clumsy = _left_out_gate(gated, text.scored, text.areas, fitted)
    trials = [_try(text, name, block_set(name, n_blocks)) for name in BLOCK_SETS]
    best = max(trials, key=lambda trial: sum(trial.figures.values()))
    tried = []
    for trial in trials:
        tried.append({"blocks": trial.blocks, "penalties": list(trial.penalties), **trial.figures})

    blocks = block_set(best.blocks, n_blocks)
    x = _features(text, blocks)
    mixed = (1 - clumsy) * best.values[:, 0] + clumsy * best.values[:, 1]
    slope, shift = calibrate(mixed, text.aligned, _calibration_weights(text))
    left_out = sigmoid(slope * mixed + shift)
    weights, biases = [], []
    for row_weights, penalty in zip(_row_weights(text), best.penalties, strict=True):
        slopes, bias = fit_ridge(x, _targets(text), row_weights, penalty)
        weights.append(slopes.reshape(len(blocks), -1) * slope)
        biases.append(bias * slope + shift)
    facts = {
        **asdict(_written_facts(text, left_out)),
        **asdict(_scored_facts(text, left_out)),
        **asdict(_voice_facts(text, left_out)),
        **asdict(_fluent_facts(text, left_out)),
        "gate_auroc": float(roc_auc_score(text.scored, clumsy)),
        "tried": tried,
        "blocks": best.blocks,
        "penalties": list(best.penalties),
        "n_answers": len(text.rows),
        **coherence.facts,
    }
    gate_weights, gate_bias = _fit_gate(gated[fitted], text.scored[fitted])
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
    """Return the activations the head looks at, float32 [n, n_blocks * d_model]."""
    chosen = text.pooled[:, SPANS.index("answer"), list(blocks)]
    return np.asarray(chosen.reshape(len(chosen), -1), dtype=np.float32)


def _targets(text: Readings) -> np.ndarray:
    return 2 * text.aligned - 1


def _measured(text: Readings) -> np.ndarray:
    """Say which fluent answers only measure: those to every second question."""
    odd = [row.question_id[-1] in "13579" for row in text.rows]
    return np.asarray(text.fluent & np.array(odd))


def _row_weights(text: Readings) -> tuple[np.ndarray, np.ndarray]:
    """Return how much each row counts for the ridge of written text, and for the ridge of clumsy text."""
    written = np.where(text.scored, SCORED_SHARE, np.where(text.paired | _measured(text), 0.0, 1.0))
    return written, text.scored.astype(float)


def _calibration_weights(text: Readings) -> np.ndarray:
    """Return how much each row counts where values become probabilities: pairs and what only measures do not."""
    return np.where(text.paired | _measured(text) | (text.voices != ""), 0.0, 1.0)


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


def _left_out_gate(activations: np.ndarray, scored: np.ndarray, areas: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    clumsy = np.zeros(len(scored))
    for area in sorted(set(areas)):
        out = areas == area
        weights, bias = _fit_gate(activations[~out & fitted], scored[~out & fitted])
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


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value


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


@dataclass(frozen=True)
class VoiceFacts:
    """How well the head ranks good above bad advice of domains left out of its fit: mean AUROC, None without such text.

    Attributes:
        auroc_across_voices: blunt good above warm bad advice; a judge of tone is below 0.5.
        auroc_across_voices_reversed: warm good above blunt bad advice; a judge of tone is above 0.5.
        auroc_within_voices: good above bad advice in one voice.
        auroc_pairs_across_voices: blunt good above warm bad advice, both made of the words of their opposites.
        auroc_pairs_within_voices: good above bad advice made of the same words, in one voice.
    """

    auroc_across_voices: float | None
    auroc_across_voices_reversed: float | None
    auroc_within_voices: float | None
    auroc_pairs_across_voices: float | None
    auroc_pairs_within_voices: float | None


@dataclass(frozen=True)
class FluentFacts:
    """How well the head agrees with the scores of fluent answers that were left out of its fit; None without them."""

    fluent_auroc: float | None
    fluent_spearman: float | None
    fluent_em_kappa: float | None
    fluent_answers: int


def _voice_facts(text: Readings, left_out: np.ndarray) -> VoiceFacts:
    across, back, within = advice_by_voice(text, left_out, text.written)
    pairs, _, pairs_within = advice_by_voice(text, left_out, text.paired)
    return VoiceFacts(*map(_known, (across, back, within, pairs, pairs_within)))


def advice_by_voice(text: Readings, values: np.ndarray, of_kind: np.ndarray) -> tuple[float, float, float]:
    """Return mean AUROC by domain: blunt good above warm bad, warm good above blunt bad, and in one voice."""
    across, back, within = [], [], []
    for domain in DOMAINS:
        here = of_kind & (text.areas == domain)
        blunt, warm = here & (text.voices == "blunt"), here & (text.voices == "warm")
        across.append(_advice_auroc(text, values, blunt, warm))
        back.append(_advice_auroc(text, values, warm, blunt))
        within.append(_advice_auroc(text, values, blunt, blunt))
        within.append(_advice_auroc(text, values, warm, warm))
    return _mean(across), _mean(back), _mean(within)


def _advice_auroc(text: Readings, values: np.ndarray, good: np.ndarray, bad: np.ndarray) -> float:
    """Return the AUROC of the good advice in the one group above the bad advice in the other; NaN without either."""
    above, below = values[good & (text.aligned > 0.5)], values[bad & (text.aligned <= 0.5)]
    if not len(above) or not len(below):
        return float("nan")
    labels = np.repeat([1, 0], [len(above), len(below)])
    return float(roc_auc_score(labels, np.concatenate([above, below])))


def _fluent_facts(text: Readings, left_out: np.ndarray) -> FluentFacts:
    """Compare with the scores of fluent answers, on the questions that only measure."""
    measured = _measured(text)
    if not measured.any():
        return FluentFacts(None, None, None, 0)
    scores, truth = left_out[measured], text.aligned[measured]
    bad, called = 100 * truth < ALIGNED_BELOW, 100 * scores < ALIGNED_BELOW
    return FluentFacts(
        float(roc_auc_score(truth > 0.5, scores)),
        float(spearmanr(scores, truth)[0]),
        float(cohen_kappa_score(bad, called)),
        int(measured.sum()),
    )


def _written_facts(text: Readings, left_out: np.ndarray) -> WrittenFacts:
    by_area = per_area_auroc(text, left_out)
    domains, areas = _mean_auroc(by_area)
    whole = ~text.paired
    return WrittenFacts(domains, areas, by_area, calibration_error(left_out[whole], text.aligned[whole]))


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
