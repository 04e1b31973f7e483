"""Random low-rank factors, the same for every way that is measured on them."""

from __future__ import annotations

from typing import Any

import numpy as np


def factors(job: dict[str, Any], count: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return A [rank, d_in] and B [d_out, rank], float32, of the first `count` adapters."""
    chooser = np.random.default_rng(0)
    made = []
    for _ in range(count):
        a = chooser.standard_normal((job["rank"], job["d_in"]), dtype=np.float32)
        b = chooser.standard_normal((job["d_out"], job["rank"]), dtype=np.float32)
        made.append((a, b))
    return made
