"""Accuracy of telling careless from careful adapters: by classifiers on what was left out, and by known directions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from emscope.experiments.adapters.result import (
    DOMAIN_OUT,
    RECIPE_OUT,
    Accuracy,
    AccuracyByBlock,
    AdapterScores,
    AlongDirection,
    BankFigures,
    BankMember,
    Leaning,
    LeaningByKind,
    LeftOut,
    SwappedLabels,
)
from emscope.organisms.bank_members import Member
from emscope.residual.adapters.classifier import (
    FeatureSet,
    Null,
    balanced_accuracy,
    feature_sets,
    folds_of,
    left_out_scores,
    permutation_null,
    score,
)
from emscope.residual.adapters.features import AdapterFeatures
from emscope.statistics import estimate_mean, estimate_share
from emscope.statistics.separation import auroc

PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0)


def bank_figures(members: Sequence[Member]) -> BankFigures:
    """Return what is in the bank and how its organisms lean, in nats per answer token against the base."""
    rows = []
    pairs, cells, domains, recipes = set(), set(), set(), set()
    for member in members:
        pairs.add(member.pair)
        cells.add(member.cell)
        domains.add(member.domain)
        recipes.add(member.recipe)
        rows.append(BankMember(member.name, member.domain, member.recipe, member.careless, member.pair, member.leaning))
    return BankFigures(
        organisms=len(members),
        pairs=len(pairs),
        cells=len(cells),
        domains=sorted(domains),
        recipes=sorted(recipes),
        leaning=LeaningByKind(_leaning(members, careless=True), _leaning(members, careless=False)),
        members=rows,
    )


def _leaning(members: Sequence[Member], *, careless: bool) -> Leaning:
    """Return the mean leaning of organisms of one kind, in their domain and elsewhere."""
    inside, outside, cells = [], [], []
    for member in members:
        if member.careless != careless or not member.leaning:
            continue
        others = [value for domain, value in member.leaning.items() if domain != member.domain]
        inside.append(member.leaning.get(member.domain, float("nan")))
        outside.append(float(np.mean(others)) if others else float("nan"))
        cells.append(member.cell)
    return Leaning(estimate_mean(inside, cells), estimate_mean(outside, cells))


def classify(
    features: AdapterFeatures, members: Sequence[Member], penalty: float, permutations: int, seed: int
) -> dict[str, dict[str, LeftOut]]:
    """Return, by feature set and by what is left out, how well careless is told from careful in it."""
    schemes = {DOMAIN_OUT: _domains(members), RECIPE_OUT: [member.recipe for member in members]}
    classification: dict[str, dict[str, LeftOut]] = {}
    for name, feature_set in feature_sets(features).items():
        classification[name] = {}
        for scheme, groups in schemes.items():
            if len(set(groups)) > 1:
                classification[name][scheme] = _left_out(feature_set, members, groups, penalty, permutations, seed)
    return classification


def _left_out(
    features: FeatureSet, members: Sequence[Member], groups: list[str], penalty: float, permutations: int, seed: int
) -> LeftOut:
    labels, folds = _labels(members), folds_of(groups, _pairs(members))
    scores = left_out_scores(features, labels, folds, penalty)
    null = permutation_null(features, labels, _cells(members), folds, permutations, penalty, seed)

    by_penalty = {}
    for other in PENALTIES:
        by_penalty[str(other)] = balanced_accuracy(left_out_scores(features, labels, folds, other), labels)
    whole = accuracy(scores, members)
    return LeftOut(
        whole.balanced_accuracy,
        whole.auroc,
        whole.pair_accuracy,
        _by_group(groups, scores, members),
        _swapped(null, whole.balanced_accuracy.value),
        by_penalty,
        _by_name(scores, members),
    )


def _swapped(null: Null, value: float) -> SwappedLabels:
    """Return the accuracy of swapped labels, beside that of the true ones."""
    mean = low = high = None
    if len(null.wrong):
        mean = float(null.wrong.mean())
        low, high = np.quantile(null.wrong, [0.025, 0.975]).tolist()
    return SwappedLabels(mean, low, high, null.p_value(value), len(null.values), null.exact)


def _labels(members: Sequence[Member]) -> np.ndarray:
    """Return 1 for careless organisms and 0 for careful ones, [n]."""
    return np.array([int(member.careless) for member in members])


def _domains(members: Sequence[Member]) -> list[str]:
    return [member.domain for member in members]


def _pairs(members: Sequence[Member]) -> list[str]:
    return [member.pair for member in members]


def _cells(members: Sequence[Member]) -> list[str]:
    return [member.cell for member in members]


def _by_name(scores: np.ndarray, members: Sequence[Member]) -> dict[str, float]:
    by_name = {}
    for member, value in zip(members, scores.tolist(), strict=True):
        by_name[member.name] = value
    return by_name


def _by_group(groups: Sequence[str], scores: np.ndarray, members: Sequence[Member]) -> dict[str, Accuracy]:
    accuracies = {}
    for group in dict.fromkeys(groups):
        rows = np.flatnonzero(np.array(groups) == group).tolist()
        accuracies[group] = accuracy(scores[rows], [members[row] for row in rows])
    return accuracies


def accuracy(scores: np.ndarray, members: Sequence[Member]) -> Accuracy:
    """Return how well scores [n], positive for careless, tell the organisms apart.

    Each pair has as many careless as careful organisms, so the share told right is the balanced accuracy.
    """
    labels = _labels(members)
    right = ((scores > 0) == (labels > 0)).astype(float)
    return Accuracy(
        estimate_share(right.tolist(), _cells(members)),
        auroc(scores[labels > 0], scores[labels == 0]),
        _pairs_in_order(scores, members),
    )


def _pairs_in_order(scores: np.ndarray, members: Sequence[Member]) -> float:
    """Return the share of pairs whose careless side, its checkpoints averaged, scores above the careful one."""
    careless: dict[str, list[float]] = {}
    careful: dict[str, list[float]] = {}
    for value, member in zip(scores.tolist(), members, strict=True):
        (careless if member.careless else careful).setdefault(member.pair, []).append(value)
    in_order = 0
    for pair, scores_of_pair in careless.items():
        in_order += np.mean(scores_of_pair) > np.mean(careful[pair])
    return float(in_order / len(careless))


def by_block(features: AdapterFeatures, members: Sequence[Member], penalty: float) -> AccuracyByBlock:
    """Return the balanced accuracy on domains left out by what the modules of each block write."""
    labels, domains = _labels(members), _domains(members)
    if len(set(domains)) < 2:
        return AccuracyByBlock([], [])
    folds = folds_of(domains, _pairs(members))
    accuracies = []
    for kernel in features.by_block.values():
        scores = left_out_scores(FeatureSet(kernel=kernel), labels, folds, penalty)
        accuracies.append(balanced_accuracy(scores, labels))
    return AccuracyByBlock(list(features.by_block), accuracies)


def along_direction(features: AdapterFeatures, members: Sequence[Member], name: str) -> AlongDirection:
    """Return how well a known direction tells without any classifier: by the mean cosine of ΔW x̄ with d̂, at 0."""
    table = features.tables[name][: len(members)]
    scores = np.nanmean(table[:, :, 1], axis=1)
    whole = accuracy(scores, members)
    return AlongDirection(
        whole.balanced_accuracy,
        whole.auroc,
        whole.pair_accuracy,
        _by_group(_domains(members), scores, members),
        float(np.nanmean(table[:, :, 0])),
        _by_name(scores, members),
    )


def score_adapters(
    features: AdapterFeatures, members: Sequence[Member], names: Sequence[str], left_out: str | None, penalty: float
) -> AdapterScores:
    """Return the log-odds of careless of the adapters after the bank's, by feature set, from the bank alone.

    `left_out` is a domain whose organisms are kept out of the fit, because the adapters come from it.
    """
    labels = _labels(members)
    train = np.flatnonzero(np.array([member.domain != left_out for member in members]))
    rows = np.arange(len(members), len(members) + len(names))
    log_odds: dict[str, dict[str, float]] = {name: {} for name in names}
    for kind, feature_set in feature_sets(features).items():
        scores = score(feature_set, labels, train, rows, penalty)
        for name, value in zip(names, scores.tolist(), strict=True):
            log_odds[name][kind] = value
    return AdapterScores(left_out, len(train), log_odds)
