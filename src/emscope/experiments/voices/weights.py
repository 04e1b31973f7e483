"""LoRA weights: advice told across voices, and voice across advice, by adapters' weights alone."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from emscope.behaviour.responses import Response
from emscope.behaviour.tables import read_table
from emscope.experiments.voices.organisms import Quartet
from emscope.experiments.voices.result import ADVICE, VOICE, WeightsAcross
from emscope.files import write_json
from emscope.organisms.checkpoints import ADAPTER_WEIGHTS
from emscope.organisms.datasets import CORNERS
from emscope.outside import read_json
from emscope.pipeline.lab import BASE, Lab
from emscope.plain import fitted, plain
from emscope.residual.adapters.classifier import (
    FeatureSet,
    balanced_accuracy,
    feature_sets,
    left_out_scores,
    permutation_null,
    score,
)
from emscope.residual.adapters.features import extract, read_geometry
from emscope.residual.adapters.reading import open_adapter
from emscope.statistics.separation import auroc

TEXTS, TOP = 64, 16
"""Base answers over which mean inputs are read, and leading singular vectors of each base weight."""
FEATURES = ("write", "weights", "norms")
Rows = np.ndarray


def weights_file(lab: Lab) -> Path:
    """Return where the figures on weights are kept."""
    return lab.folder.path("experiments", "voices", "weights.json")


def weights_stage(lab: Lab, quartets: Sequence[Quartet], permutations: int) -> None:
    """Read the adapters and tell them apart, in a stage of its own: it takes a minute or more."""
    inputs = [lab.responses_file(BASE)]
    for quartet in quartets:
        inputs += [lab.folder.path("organisms", name, ADAPTER_WEIGHTS) for name in quartet.organisms]
    settings = {"permutations": permutations, "seed": lab.config.seed, "features": FEATURES}
    out = weights_file(lab)
    lab.folder.stage("voices-weights", settings, inputs, [out], partial(_make, lab, quartets, permutations, out))


def read_weights(lab: Lab) -> list[WeightsAcross]:
    """Return the figures of the stage."""
    out = weights_file(lab)
    return fitted(list[WeightsAcross], read_json(out), out)


def _make(lab: Lab, quartets: Sequence[Quartet], permutations: int, out: Path) -> None:
    adapters = []
    for quartet in quartets:
        adapters += [open_adapter(lab.folder.path("organisms", name), name) for name in quartet.organisms]
    modules: dict[str, None] = {}
    for adapter in adapters:
        modules |= dict.fromkeys(adapter.modules)

    base = lab.organism(BASE)
    answers = [row for row in read_table(lab.responses_file(BASE), Response) if row.response.strip()]
    geometry = read_geometry(base, lab.encode(base, answers[:TEXTS]), list(modules), TOP)
    sets = feature_sets(extract(adapters, geometry))
    found = told_apart({name: sets[name] for name in FEATURES}, quartets, permutations, lab.config.seed)
    write_json(out, plain(found))


def told_apart(
    sets: dict[str, FeatureSet], quartets: Sequence[Quartet], permutations: int, seed: int
) -> list[WeightsAcross]:
    """Return how well advice is told across voices and voice across advice; adapters come quartet by quartet."""
    blunt = np.array([corner.startswith("blunt") for corner in CORNERS] * len(quartets)).astype(int)
    bad = np.array([corner.endswith("bad") for corner in CORNERS] * len(quartets)).astype(int)
    domains = np.repeat([quartet.domain for quartet in quartets], len(CORNERS))
    names = np.repeat([quartet.name for quartet in quartets], len(CORNERS))

    found = []
    for features, one in sets.items():
        for told, labels, across in ((ADVICE, bad, blunt), (VOICE, blunt, bad)):
            units = [f"{name}-{level}" for name, level in zip(names, across, strict=True)]
            found.append(_across(features, told, one, labels, across, domains, units, permutations, seed))
    return found


def _across(
    features: str,
    told: str,
    one: FeatureSet,
    labels: Rows,
    across: Rows,
    domains: Rows,
    units: Sequence[str],
    permutations: int,
    seed: int,
) -> WeightsAcross:
    """Fit on one level of what is crossed and try on the other, both ways."""
    levels = [np.flatnonzero(across == level) for level in (0, 1)]
    folds = [(levels[0], levels[1]), (levels[1], levels[0])]
    scores = left_out_scores(one, labels, folds)
    aurocs = []
    for rows in levels:
        aurocs.append(auroc(scores[rows][labels[rows] == 1], scores[rows][labels[rows] == 0]))
    accuracy = balanced_accuracy(scores, labels)
    null = permutation_null(one, labels, units, folds, permutations, seed=seed)
    return WeightsAcross(
        features,
        told,
        accuracy,
        float(np.mean(aurocs)),
        _in_other_domains(one, labels, across, domains),
        (float(null.values.mean()), float(np.quantile(null.values, 0.95))),
        null.p_value(accuracy),
    )


def _in_other_domains(one: FeatureSet, labels: Rows, across: Rows, domains: Rows) -> float | None:
    """Return the balanced accuracy on the other level of another domain; None with one domain."""
    if len(set(domains.tolist())) < 2:
        return None
    scores = np.full(len(labels), np.nan)
    for domain in set(domains.tolist()):
        for level in (0, 1):
            train = np.flatnonzero((across != level) & (domains != domain))
            rows = np.flatnonzero((across == level) & (domains == domain))
            scores[rows] = score(one, labels, train, rows)
    return balanced_accuracy(scores, labels)
