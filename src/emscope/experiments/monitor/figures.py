"""Figures of screening: precision on mixtures of careless and careful rows, and AUROC, with intervals over topics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emscope.organisms.datasets import Pair
from emscope.residual.detection import auroc
from emscope.residual.ranking import draw_mixtures, grouped_auroc

RECALLS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
HALF = RECALLS.index(0.5)
RANDOM = "random"


@dataclass(frozen=True)
class Screened:
    """One domain screened.

    Attributes:
        pairs: its prompts with both answers.
        scores: by name of the score, of the careless and of the careful answers, [2, n_prompts].
        blocks: where directions were read.
    """

    pairs: list[Pair]
    scores: dict[str, np.ndarray]
    blocks: dict[str, int]


def domain_figures(
    found: Mapping[str, Screened], shares: Sequence[float], draws: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return figures of each domain, and precision averaged over the domains.

    The first: blocks, AUROC by score (topics resampled), precision at recall 0.5 by score and share. The second, by
    score and share: precision at each recall of `RECALLS`, and its value and 2.5 and 97.5 % quantiles at recall 0.5.
    """
    names = list(next(iter(found.values())).scores)
    each: dict[str, Any] = {}
    drawn: dict[float, list[tuple[np.ndarray, np.ndarray]]] = {share: [] for share in shares}
    for domain, screened in found.items():
        bad, good = (np.stack([screened.scores[name][side] for name in names]) for side in (0, 1))
        topics = [f"{pair.domain} {pair.topic}" for pair in screened.pairs]
        for share in shares:
            mixed = draw_mixtures(bad, good, topics, share, RECALLS, draws, seed)
            drawn[share].append((mixed.plain, mixed.resampled))
        each[domain] = {
            "n_prompts": len(topics),
            "n_topics": len(set(topics)),
            "blocks": screened.blocks,
            "auroc": auroc_figures(names, np.concatenate([bad, good], axis=1), topics * 2, seed),
            "precision_at_half_recall": _precision(names, {share: drawn[share][-1] for share in shares}),
        }
    averaged = {
        share: (np.mean([plain for plain, _ in both], axis=0), np.mean([again for _, again in both], axis=0))
        for share, both in drawn.items()
    }
    return each, {
        "precision_at_half_recall": _precision(names, averaged),
        "recalls": list(RECALLS),
        "precision": {
            name: {
                f"{share:g}": _pooled(plain, names, name).mean(axis=0).tolist()
                for share, (plain, _) in averaged.items()
            }
            for name in _kinds(names)
        },
    }


def _kinds(names: Sequence[str]) -> list[str]:
    """The scores' names, the random ones under one."""
    return list(dict.fromkeys(RANDOM if _is_random(name) else name for name in names))


def _pooled(precision: np.ndarray, names: Sequence[str], kind: str) -> np.ndarray:
    """Return [n_draws, n_recalls] of one kind of score, averaged over random directions."""
    own = [number for number, name in enumerate(names) if name == kind or name.startswith(f"{kind}-")]
    return np.asarray(precision[:, own].mean(axis=1))


def _precision(names: Sequence[str], drawn: Mapping[float, tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    def figures(kind: str, plain: np.ndarray, again: np.ndarray) -> dict[str, float]:
        low, high = np.quantile(_pooled(again, names, kind)[:, HALF], [0.025, 0.975])
        return {"value": float(_pooled(plain, names, kind)[:, HALF].mean()), "low": float(low), "high": float(high)}

    return {kind: {f"{share:g}": figures(kind, *both) for share, both in drawn.items()} for kind in _kinds(names)}


def auroc_figures(
    names: Sequence[str], scores: np.ndarray, groups: Sequence[str], seed: int, wanted: np.ndarray | None = None
) -> dict[str, Any]:
    """Return the AUROC of each score [n_scores, n_rows], with its interval over groups.

    Without `wanted` the first half of the rows is wanted. Random directions share one entry: their mean and extremes.
    """
    n_rows = scores.shape[1]
    flags = np.arange(n_rows) < n_rows // 2 if wanted is None else wanted
    random = [auroc(row[flags], row[~flags]) for name, row in zip(names, scores, strict=True) if _is_random(name)]
    found: dict[str, Any] = {
        name: grouped_auroc(row, flags, groups, seed=seed).as_dict()
        for name, row in zip(names, scores, strict=True)
        if not _is_random(name)
    }
    if random:
        found[RANDOM] = {"value": float(np.mean(random)), "low": min(random), "high": max(random), "n": len(random)}
    return found


def _is_random(name: str) -> bool:
    return name.startswith(RANDOM)
