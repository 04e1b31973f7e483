"""Folds: rows are divided by question, so that what is fitted on some questions is scored on others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def group_codes(groups: Sequence[str]) -> np.ndarray:
    """Return the number of each row's group, in the order in which groups come, int [n]."""
    numbers: dict[str, int] = {}
    codes = np.empty(len(groups), dtype=np.int64)
    for row, group in enumerate(groups):
        codes[row] = numbers.setdefault(group, len(numbers))
    return codes


def question_folds(groups: Sequence[str], folds: int) -> np.ndarray:
    """Return the fold of each row, [n]; groups are dealt out in the order they come, so areas spread evenly."""
    codes = group_codes(groups)
    n_groups = int(codes.max()) + 1
    return np.asarray(codes % min(folds, n_groups))


def shuffled_folds(groups: Sequence[str], folds: int, seed: int = 0) -> np.ndarray:
    """Return the fold of each row, [n]; groups are dealt out in random order."""
    names, codes = np.unique(np.asarray(groups), return_inverse=True)
    order = np.random.default_rng(seed).permutation(len(names))
    return np.asarray((order % folds)[codes])
