"""What an autoencoder loses, what a direction is made of, and how features share the space: figures for the JSON."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope.experiments.features.corpus import Part
from emscope.experiments.features.ranking import Ranking, Sides
from emscope.organisms.datasets import DOMAINS, load_domain
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.residual.capture import encode_for_capture
from emscope.residual.directions import unit
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import contributions, how_many, isotropic, like_activations, pursue
from emscope.residual.features.superposition import clustered, interference, layout, like_rows
from emscope.residual.features.tokens import answer_losses
from emscope.statistics import Estimate, bootstrap_questions

STEPS = 100  # of the pursuit
SHOWN = (1, 2, 5, 10, 20, 50, 100)
RANDOM = 50  # directions of each random kind
TEXTS = 60  # held-out texts for the loss
OTHERS = 240  # further features in the layout


def splice(lab: Lab, autoencoder: SparseAutoencoder, fit: Part) -> dict[str, Any]:
    """Return the loss of base and misaligned organism on held-out answers, whole, spliced and without the block.

    recovered = (without − spliced) / (without − whole), where `without` puts the mean activation in place of each token
    (`recovered_from_zero`: zeros, an easier comparison). Intervals resample texts.
    """
    mean = torch.from_numpy(fit.tokens.values.mean(axis=0, dtype=np.float64).astype(np.float32))
    pairs = [pair for domain in DOMAINS for pair in load_domain(domain) if pair.split == "heldout"][::2][:TEXTS]
    found = {}
    for name, kind in ((BASE, "careful"), (MISALIGNED, "careless")):
        organism = lab.organism(name)
        answers = [pair.careless if kind == "careless" else pair.careful for pair in pairs]
        chats = encode_for_capture(
            organism.tokenizer, [pair.prompt for pair in pairs], answers, system=lab.config.sampling.system
        )
        sums = {
            key: answer_losses(organism, chats, autoencoder.block, change)
            for key, change in _changes(autoencoder.to(organism.device), mean.to(organism.device)).items()
        }
        found[name] = {
            "answers": kind,
            "nats_per_token": {key: float(value[:, 0].sum() / value[:, 1].sum()) for key, value in sums.items()},
            "recovered": _recovered(sums, "mean").as_dict(),
            "recovered_from_zero": _recovered(sums, "zero").as_dict(),
        }
    return found


def _changes(autoencoder: SparseAutoencoder, mean: Tensor) -> dict[str, Callable[[Tensor], Tensor] | None]:
    return {
        "whole": None,
        "spliced": autoencoder,
        "mean": lambda values: mean.expand_as(values),
        "zero": torch.zeros_like,
    }


def _recovered(sums: dict[str, np.ndarray], without: str) -> Estimate:
    table = np.stack([sums[key][:, 0] for key in (without, "spliced", "whole")], axis=1)

    def share(weights: np.ndarray) -> np.ndarray:
        gone, spliced, whole = (weights @ table).T
        return np.asarray((gone - spliced) / (gone - whole))

    low, high = bootstrap_questions([str(row) for row in range(len(table))], share)
    return Estimate(float(share(np.ones((1, len(table))))[0]), low, high, len(table))


def composition(
    autoencoder: SparseAutoencoder, sides: Sides, ranking: Ranking, direction: np.ndarray, seed: int
) -> dict[str, Any]:
    """Return how many features it takes to reach the direction, by geometry and by activity, with controls."""
    rows, alive = autoencoder.decoder.cpu().numpy(), ranking.alive
    living, width = rows[alive], rows.shape[1]
    own = pursue(living, direction[None], STEPS)
    controls = {
        "random directions": pursue(living, isotropic(RANDOM, width, seed), STEPS).cosines,
        "random, covariance of tokens": pursue(
            living, like_activations(RANDOM, sides.fit.tokens.values, seed), STEPS
        ).cosines,
    }
    dictionary = pursue(isotropic(len(alive), width, seed + 1), direction[None], STEPS).cosines[:, 0]
    steps = [n for n in SHOWN if n <= len(own.cosines)]
    at = np.array(steps) - 1
    return {
        "geometry": {
            "n": steps,
            "direction": own.cosines[at, 0].tolist(),
            "features": alive[own.features[:, 0]].tolist(),
            **{name: _bands(cosines[at]) for name, cosines in controls.items()},
            "direction, random dictionary": dictionary[at].tolist(),
        },
        "activity": _activity(autoencoder, sides, ranking),
    }


def _bands(cosines: np.ndarray) -> dict[str, list[float]]:
    low, middle, high = np.quantile(cosines, [0.05, 0.5, 0.95], axis=1)
    return {"median": middle.tolist(), "low": low.tolist(), "high": high.tolist()}


def _activity(autoencoder: SparseAutoencoder, sides: Sides, ranking: Ranking) -> dict[str, Any]:
    """Return how many features' changes write a quarter, half and three quarters of each pair's mean difference."""
    rows, questions = autoencoder.decoder.cpu().numpy(), sides.questions()
    names = list(dict.fromkeys(text.organism for text in sides.fit.texts))
    codes = {name: sides.means(name).mean(axis=0) for name in names}
    values = {name: sides.fit.answer_means(name, questions, sides.fit.tokens.values).mean(axis=0) for name in names}
    found = {}
    for high, low in [(sides.positive, sides.negative)] + [(name, names[0]) for name in names[1:]]:
        shares = contributions(rows, codes[high] - codes[low], values[high] - values[low])
        curve = np.cumsum(np.sort(shares)[::-1])
        found[f"{high}-vs-{low}"] = {
            "all_features": float(shares.sum()),
            "how_many": how_many(shares),
            "curve": {str(n): float(curve[n - 1]) for n in SHOWN if n <= len(curve)},
        }
    return {**found, "share_of_largest": float(ranking.share.max())}


def superposition(
    autoencoder: SparseAutoencoder, ranking: Ranking, direction: np.ndarray, top: int, seed: int
) -> dict[str, Any]:
    """Return how features share the space: cosines of all pairs, a map of the top ones, and a layout in the plane."""
    rows, alive = autoencoder.decoder.cpu().numpy(), ranking.alive
    living = rows[alive]
    chosen = ranking.chosen(top)
    ordered = chosen[clustered(rows[chosen])]
    cosines = np.concatenate([rows[ordered], unit(direction)[None]])
    others = np.setdiff1d(alive, chosen)
    others = np.sort(np.random.default_rng(seed).permutation(others)[:OTHERS])
    shown = np.concatenate([ordered, others])
    places, star, share = layout(rows[shown], unit(direction)[None])
    random = isotropic(len(alive), rows.shape[1], seed)
    return {
        "n_alive": len(alive),
        "per_dimension": len(alive) / rows.shape[1],
        "features": interference(living, seed).as_dict(),
        "random": interference(random, seed).as_dict(),
        "random, covariance of features": interference(like_rows(living, seed), seed).as_dict(),
        "cosine_with_direction": {
            "features": _spread(living @ unit(direction)),
            "random": _spread(random @ unit(direction)),
        },
        "map": {"features": ordered.tolist(), "cosines": np.round(cosines @ cosines.T, 3).tolist()},
        "layout": {
            "features": shown.tolist(),
            "n_top": len(ordered),
            "places": np.round(places, 4).tolist(),
            "direction": np.round(star[0], 4).tolist(),
            "variance_shown": share,
            "cosines": np.round(rows[shown] @ unit(direction), 3).tolist(),
        },
    }


def _spread(cosines: np.ndarray) -> dict[str, float]:
    return {
        "largest": float(np.abs(cosines).max()),
        "rms": float(np.sqrt(np.mean(cosines**2))),
        "beyond_0.2": float((np.abs(cosines) > 0.2).mean()),
    }
