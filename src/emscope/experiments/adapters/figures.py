"""The figures of the adapters experiment, as plain JSON values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from emscope.organisms.bank_members import Member
from emscope.residual.adapters.classifier import (
    FeatureSet,
    balanced_accuracy,
    feature_sets,
    folds_of,
    left_out_scores,
    permutation_null,
    score,
)
from emscope.residual.adapters.features import AdapterFeatures
from emscope.residual.adapters.scalars import ScalarProbe
from emscope.residual.detection import auroc
from emscope.statistics import Estimate, estimate_mean, estimate_share

PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0)
SCHEMES = {"leave-one-domain-out": "domain", "leave-one-recipe-out": "recipe"}


def bank_figures(members: Sequence[Member]) -> dict[str, Any]:
    """Return what is in the bank and how its organisms lean, in nats per answer token against the base."""
    return {
        "organisms": len(members),
        "pairs": len({member.pair for member in members}),
        "cells": len({member.cell for member in members}),
        "domains": sorted({member.domain for member in members}),
        "recipes": sorted({member.recipe for member in members}),
        "leaning": {
            kind: {where: _leaning(members, careless, where).as_dict() for where in ("in_domain", "out_of_domain")}
            for kind, careless in (("careless", True), ("careful", False))
        },
        "members": [
            {
                "name": member.name,
                "domain": member.domain,
                "recipe": member.recipe,
                "careless": member.careless,
                "pair": member.pair,
                "leaning": member.leaning,
            }
            for member in members
        ],
    }


def _leaning(members: Sequence[Member], careless: bool, where: str) -> Estimate:
    rows = [member for member in members if member.careless == careless and member.leaning]
    values = [
        float(np.mean([value for name, value in row.leaning.items() if (name == row.domain) == (where == "in_domain")]))
        if len(row.leaning) > (where != "in_domain")
        else float("nan")
        for row in rows
    ]
    return estimate_mean(values, [row.cell for row in rows])


def classification_figures(
    features: AdapterFeatures, members: Sequence[Member], penalty: float, permutations: int, seed: int
) -> dict[str, Any]:
    """Return, by feature set and scheme, how well careless is told from careful in what was left out."""
    found: dict[str, Any] = {}
    for name, own in feature_sets(features).items():
        found[name] = {
            scheme: _left_out(own, members, group, penalty, permutations, seed)
            for scheme, group in SCHEMES.items()
            if len({getattr(member, group) for member in members}) > 1
        }
    return found


def _left_out(
    features: FeatureSet, members: Sequence[Member], group: str, penalty: float, permutations: int, seed: int
) -> dict[str, Any]:
    labels, pairs = np.array([int(member.careless) for member in members]), [member.pair for member in members]
    groups = [str(getattr(member, group)) for member in members]
    folds = folds_of(groups, pairs)
    scores = left_out_scores(features, labels, folds, penalty)
    null = permutation_null(features, labels, [member.cell for member in members], folds, permutations, penalty, seed)
    wrong, whole = null.wrong, _told(scores, members)
    return {
        **whole,
        "by_group": _told_by(groups, scores, members),
        "null": {
            "mean": float(wrong.mean()) if len(wrong) else None,
            "low": float(np.quantile(wrong, 0.025)) if len(wrong) else None,
            "high": float(np.quantile(wrong, 0.975)) if len(wrong) else None,
            "p_value": null.p_value(whole["balanced_accuracy"]["value"]),
            "relabellings": len(null.values),
            "exact": null.exact,
        },
        "by_penalty": {
            str(other): balanced_accuracy(left_out_scores(features, labels, folds, other), labels)
            for other in PENALTIES
        },
        "scores": {member.name: float(value) for member, value in zip(members, scores, strict=True)},
    }


def _told_by(groups: Sequence[str], scores: np.ndarray, members: Sequence[Member]) -> dict[str, Any]:
    found = {}
    for name in dict.fromkeys(groups):
        rows = [row for row, group in enumerate(groups) if group == name]
        found[name] = _told(scores[rows], [members[row] for row in rows])
    return found


def _told(scores: np.ndarray, members: Sequence[Member]) -> dict[str, Any]:
    """Return balanced accuracy at 0 (cells resampled), AUROC, and in which share of pairs careless scores higher.

    Each pair has as many careless as careful organisms, so the share told right is the balanced accuracy.
    """
    labels = np.array([int(member.careless) for member in members])
    sides: dict[str, tuple[list[float], list[float]]] = {}
    for value, member in zip(scores, members, strict=True):
        sides.setdefault(member.pair, ([], []))[int(member.careless)].append(float(value))
    right = ((scores > 0) == (labels > 0)).astype(float)
    return {
        "balanced_accuracy": estimate_share(right.tolist(), [member.cell for member in members]).as_dict(),
        "auroc": auroc(scores[labels > 0], scores[labels == 0]),
        "pair_accuracy": float(np.mean([np.mean(high) > np.mean(low) for low, high in sides.values()])),
    }


def block_figures(features: AdapterFeatures, members: Sequence[Member], penalty: float) -> dict[str, Any]:
    """Return the balanced accuracy leave-one-domain-out of `write` by the modules of each block alone."""
    labels, pairs = np.array([int(member.careless) for member in members]), [member.pair for member in members]
    domains = [member.domain for member in members]
    if len(set(domains)) < 2:
        return {"blocks": [], "balanced_accuracy": []}
    folds = folds_of(domains, pairs)
    told = [
        balanced_accuracy(left_out_scores(FeatureSet(kernel=kernel), labels, folds, penalty), labels)
        for kernel in features.by_block.values()
    ]
    return {"blocks": list(features.by_block), "balanced_accuracy": told}


def direction_figures(features: AdapterFeatures, members: Sequence[Member]) -> dict[str, Any]:
    """Return how well known directions tell without any classifier: by the mean cosine of ΔW x̄ with d̂, at 0."""
    domains = [member.domain for member in members]
    found: dict[str, Any] = {}
    for name in ("direction", "random direction"):
        scores = np.nanmean(features.tables[name][: len(members), :, 1], axis=1)
        found[name] = {
            **_told(scores, members),
            "by_group": _told_by(domains, scores, members),
            "output_share": float(np.nanmean(features.tables[name][: len(members), :, 0])),
            "scores": {member.name: float(value) for member, value in zip(members, scores, strict=True)},
        }
    return found


def outside_scores(
    features: AdapterFeatures, members: Sequence[Member], names: Sequence[str], left_out: str | None, penalty: float
) -> dict[str, Any]:
    """Return the log-odds of careless of the adapters after the bank's, by feature set, from the bank alone.

    `left_out` is a domain whose organisms are kept out of the fit, because the adapters come from it.
    """
    labels = np.array([int(member.careless) for member in members])
    train = np.array([index for index, member in enumerate(members) if member.domain != left_out])
    rows = np.arange(len(members), len(members) + len(names))
    scores = {name: score(own, labels, train, rows, penalty) for name, own in feature_sets(features).items()}
    return {
        "domain_left_out": left_out,
        "fitted_on": len(train),
        "log_odds": {
            name: {key: float(values[index]) for key, values in scores.items()} for index, name in enumerate(names)
        },
    }


def scalar_figures(found: Mapping[str, ScalarProbe] | None, labels: np.ndarray) -> dict[str, Any]:
    """Return the probes of LoRA scalars by the kind of module they come from; None where answers are too few."""
    counts = {"misaligned": int(labels.sum()), "aligned": int((labels == 0).sum())}
    probes = None if found is None else {name: asdict(probe) for name, probe in found.items()}
    return {"answers": counts, "probes": probes}
