"""The same features by a plain loop over whole matrices, for some adapters; its seconds are those of all by count.

Each ΔW is formed and its singular values are taken whole; each pair's inner product is a sum over all entries.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from random_updates import factors
from worker import Run, serve


def features(update: np.ndarray) -> list[float]:
    """Return the logarithms of Frobenius and spectral norm, stable rank and effective rank."""
    values = np.linalg.svd(update, compute_uv=False).astype(np.float64)
    frobenius, spectral = float(np.linalg.norm(values)), float(values[0])
    shares = (values / frobenius) ** 2
    shares = shares[shares > 0]
    entropy = -(shares * np.log(shares)).sum()
    return [np.log10(frobenius), np.log10(spectral), (frobenius / spectral) ** 2, float(np.exp(entropy))]


def prepare(job: dict[str, Any]) -> Run:
    """Make the updates."""
    some, all_of_them = job["some"], job["adapters"]
    made = factors(job, some)

    def run() -> dict[str, np.ndarray]:
        started = time.perf_counter()
        updates = [b @ a for a, b in made]
        found = np.array([features(update) for update in updates])
        alone = time.perf_counter() - started
        products = np.zeros((some, some))
        for row in range(some):
            for other in range(row, some):
                products[row, other] = products[other, row] = np.vdot(updates[row], updates[other])
        pairs = time.perf_counter() - started - alone
        share = all_of_them / some
        scaled = alone * share + pairs * all_of_them * (all_of_them + 1) / (some * (some + 1))
        return {"features": found, "products": products, "scaled_seconds": np.array(scaled)}

    return run


serve(prepare, ("numpy",))
