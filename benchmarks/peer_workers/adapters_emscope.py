"""Features of many LoRA updates of one module by emscope: spectra, shares, and all inner products."""

from __future__ import annotations

from typing import Any

import numpy as np
from random_updates import factors
from worker import Run, serve

from emscope.residual.adapters.features import norm_features
from emscope.residual.adapters.lowrank import LowRank, inner_products


def prepare(job: dict[str, Any]) -> Run:
    """Make the updates."""
    made = factors(job, job["adapters"])

    def run() -> dict[str, np.ndarray]:
        updates = [LowRank(a, b, 1.0) for a, b in made]
        found = np.array([norm_features(update) for update in updates])
        return {"features": found, "products": inner_products(list(updates))}

    return run


serve(prepare, ("emscope", "numpy"))
