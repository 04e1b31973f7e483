"""A classifier of careless and careful adapters: logistic regression, tested on whole domains or recipes left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from emscope.errors import UserError
from emscope.residual.adapters.features import AdapterFeatures
from emscope.residual.probe import fit_probes
from emscope.statistics import separation

PENALTY = 0.01


@dataclass(frozen=True)
class FeatureSet:
    """One kind of features of n adapters: a table [n, n_features] to standardise, or a finished kernel [n, n]."""

    table: np.ndarray | None = None
    kernel: np.ndarray | None = None

    def similarities(self, train: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Return the kernel between `rows` and the training rows, [n_rows, n_train].

        A table is standardised by the training rows alone, and what is missing there is set to their mean.
        """
        if self.kernel is not None:
            return np.asarray(self.kernel[np.ix_(rows, train)])
        assert self.table is not None
        training = self.table[train]
        there = np.isfinite(training)
        count = np.maximum(there.sum(axis=0), 1)
        mean = np.where(there, training, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(there, training - mean, 0) ** 2).sum(axis=0) / count)
        scaled = (np.nan_to_num(self.table - mean)) / np.where(spread > 1e-9, spread, np.inf)
        return np.asarray(scaled[rows] @ scaled[train].T / self.table.shape[1])


def feature_sets(features: AdapterFeatures) -> dict[str, FeatureSet]:
    """Return the tables, flattened, and the kernels by name."""
    sets = {name: FeatureSet(kernel=kernel) for name, kernel in features.kernels.items()}
    for name, table in features.tables.items():
        sets[name] = FeatureSet(table=table.reshape(len(table), -1))
    return sets


def coordinates(features: FeatureSet, train: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates of the training rows and of `rows` whose inner products are the kernel's.

    A penalty on ‖w‖² does not see rotations, so a fit in these coordinates, [n_train] long at most, is the fit in the
    features themselves.
    """
    values, vectors = np.linalg.eigh(features.similarities(train, train))
    kept = values > 1e-10 * max(values.max(), 1e-300)
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    return vectors * roots, features.similarities(train, rows) @ vectors / roots


def score(
    features: FeatureSet, labels: np.ndarray, train: np.ndarray, rows: np.ndarray, penalty: float = PENALTY
) -> np.ndarray:
    """Return the log-odds of `rows` being careless, from a classifier fitted on the rows `train`, [n_rows].

    Objective: ½ penalty ‖w‖² + Σ log(1 + exp(−y(w·x + b))), with a free intercept; `labels` [n] are 1 for careless.
    """
    inside, outside = coordinates(features, train, rows)
    return _fit_and_score(inside, labels[train], outside, penalty)


def _fit_and_score(inside: np.ndarray, labels: np.ndarray, outside: np.ndarray, penalty: float) -> np.ndarray:
    probe = fit_probes(inside[:, None], labels, penalty, standardise=False)
    return np.asarray(probe.scores(outside[:, None])[:, 0])


def folds_of(groups: Sequence[str], units: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (train, held-out) row numbers, leaving out one group at a time.

    `units` are what must stay together: an organism, its counterpart and the checkpoints of both.

    Raises:
        UserError: fewer than two groups, or a unit that would be split between folds.
    """
    names, of_row = list(dict.fromkeys(groups)), np.array(groups)
    if len(names) < 2:
        raise UserError(f"Leaving one out needs two groups of organisms or more; all are {names[0] if names else '-'}.")
    of_unit: dict[str, str] = {}
    for unit, group in zip(units, groups, strict=True):
        if of_unit.setdefault(unit, group) != group:
            raise UserError(f"The organisms of {unit} fall into two folds, {of_unit[unit]} and {group}.")
    return [(np.flatnonzero(of_row != name), np.flatnonzero(of_row == name)) for name in names]


def left_out_scores(
    features: FeatureSet, labels: np.ndarray, folds: Sequence[tuple[np.ndarray, np.ndarray]], penalty: float = PENALTY
) -> np.ndarray:
    """Return each adapter's log-odds by the classifier that was fitted without its fold, [n]."""
    out = np.full(len(labels), np.nan)
    for train, rows in folds:
        out[rows] = score(features, labels, train, rows, penalty)
    return out


def balanced_accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean of the shares of careless (score above 0) and careful ones that are told right."""
    return separation.balanced_accuracy(scores[labels > 0], scores[labels == 0])


@dataclass(frozen=True)
class Null:
    """What a classifier reaches when labels are swapped: the balanced accuracy of each relabelling, [n].

    Attributes:
        values: balanced accuracies; of all relabellings the first is the true one and the last its opposite.
        exact: whether these are all relabellings there are, the true one among them.
    """

    values: np.ndarray
    exact: bool

    @property
    def wrong(self) -> np.ndarray:
        """The relabellings that are neither the true one nor its opposite, as far as that is known."""
        return self.values[1:-1] if self.exact else self.values

    def p_value(self, accuracy: float) -> float:
        """Return the share of relabellings that reach an accuracy; the true one counts as one of them."""
        reached = int((self.values >= accuracy - 1e-12).sum())
        return reached / len(self.values) if self.exact else (1 + reached) / (1 + len(self.values))


def permutation_null(
    features: FeatureSet,
    labels: np.ndarray,
    units: Sequence[str],
    folds: Sequence[tuple[np.ndarray, np.ndarray]],
    n: int,
    penalty: float = PENALTY,
    seed: int = 0,
) -> Null:
    """Return the balanced accuracies when each unit swaps its labels or not: all ways to, or `n` at random if fewer.

    Swapping keeps everything else (domain, recipe, prompts, first values) as it is. `units` [n_adapters] are what is
    independent: organisms of different recipes that read the same rows belong to one.
    """
    placed = [(train, rows, *coordinates(features, train, rows)) for train, rows in folds]  # the same for all swaps
    codes = np.unique(np.asarray(units), return_inverse=True)[1]
    n_units = int(codes.max()) + 1
    exact = 0 < 2**n_units <= n
    chooser = np.random.default_rng(seed)
    swaps = np.array(list(product((0, 1), repeat=n_units))) if exact else chooser.integers(0, 2, (n, n_units))

    accuracies = []
    for swap in swaps:
        swapped = np.where(swap[codes] == 1, 1 - labels, labels)
        scores = np.full(len(labels), np.nan)
        for train, rows, inside, outside in placed:
            scores[rows] = _fit_and_score(inside, swapped[train], outside, penalty)
        accuracies.append(balanced_accuracy(scores, swapped))
    return Null(np.array(accuracies), exact)
