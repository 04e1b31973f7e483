"""How features share the space: cosines of all pairs, a map of the most involved, and a layout in the plane."""

from __future__ import annotations

import numpy as np

from emscope.experiments.features.ranking import Ranking
from emscope.experiments.features.result import (
    CosineMap,
    CosineSpread,
    CosinesWithDirection,
    Layout,
    Superposition,
)
from emscope.residual.directions import unit
from emscope.residual.features.autoencoder import SparseAutoencoder
from emscope.residual.features.composition import isotropic
from emscope.residual.features.superposition import clustered, interference, layout, like_rows

OTHERS = 240  # further features in the layout


def measure_superposition(
    autoencoder: SparseAutoencoder, ranking: Ranking, direction: np.ndarray, top: int, seed: int
) -> Superposition:
    """Return how the living features lie to each other and to a direction [d_model], the `top` ones one by one."""
    rows, alive = autoencoder.decoder.cpu().numpy(), ranking.alive
    living, along = rows[alive], unit(direction)
    chosen = ranking.chosen(top)
    ordered = chosen[clustered(rows[chosen])]
    cosines = np.concatenate([rows[ordered], along[None]])
    random = isotropic(len(alive), rows.shape[1], seed)

    return Superposition(
        n_alive=len(alive),
        per_dimension=len(alive) / rows.shape[1],
        features=interference(living, seed),
        random=interference(random, seed),
        like_features=interference(like_rows(living, seed), seed),
        cosine_with_direction=CosinesWithDirection(_spread(living @ along), _spread(random @ along)),
        map=CosineMap(ordered.tolist(), np.round(cosines @ cosines.T, 3).tolist()),
        layout=_layout(rows, ordered, np.setdiff1d(alive, chosen), along, seed),
    )


def _layout(rows: np.ndarray, top: np.ndarray, others: np.ndarray, along: np.ndarray, seed: int) -> Layout:
    """Return the top features and some of the others in the plane."""
    some = np.sort(np.random.default_rng(seed).permutation(others)[:OTHERS])
    shown = np.concatenate([top, some])
    places, star, share = layout(rows[shown], along[None])
    return Layout(
        features=shown.tolist(),
        n_top=len(top),
        places=np.round(places, 4).tolist(),
        direction=np.round(star[0], 4).tolist(),
        variance_shown=share,
        cosines=np.round(rows[shown] @ along, 3).tolist(),
    )


def _spread(cosines: np.ndarray) -> CosineSpread:
    return CosineSpread(
        largest=float(np.abs(cosines).max()),
        rms=float(np.sqrt(np.mean(cosines**2))),
        beyond=float((np.abs(cosines) > 0.2).mean()),
    )
