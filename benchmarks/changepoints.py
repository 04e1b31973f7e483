"""How often curves without a transition are called one, and how often intervals hold a planted change-point.

python benchmarks/changepoints.py --curves 300 --out benchmarks/results/changepoints.json
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from publish import publish

from emscope.residual.changepoints import Shape, find_change

TIMES = np.arange(0, 73, 4.0)
LAST, CENTRE = TIMES[-1], 30.0
GRADUAL = {
    "constant": np.zeros(len(TIMES)),
    "line": TIMES / LAST,
    "flattening": 1 - np.exp(-TIMES / 20),
    "speeding up": np.exp((TIMES - LAST) / 20),
}


def step(scale: float) -> np.ndarray:
    return 1 / (1 + np.exp(-(TIMES - CENTRE) / scale))


def peak(deviation: float) -> np.ndarray:
    return np.exp(-(((TIMES - CENTRE) / deviation) ** 2) / 2)


def noise(chooser: np.random.Generator, size: float, lean: float) -> np.ndarray:
    drawn = chooser.normal(0, size, len(TIMES))
    for point in range(1, len(TIMES)):
        drawn[point] = lean * drawn[point - 1] + np.sqrt(1 - lean**2) * drawn[point]
    return drawn


def trial(curve: np.ndarray, shape: Shape, size: float, lean: float, n: int) -> dict[str, float]:
    chooser = np.random.default_rng(0)
    place = CENTRE if shape == "peak" else float(np.interp((curve[0] + curve[-1]) / 2, curve, TIMES))
    found = [
        find_change(TIMES, curve + noise(chooser, size, lean), shape=shape, seed=seed, n_draws=400) for seed in range(n)
    ]
    return {
        "called_transition": float(np.mean([item.transition for item in found])),
        "interval_holds_the_place": float(np.mean([item.low <= place <= item.high for item in found])),
        "median_interval_share": float(np.median([(item.high - item.low) / LAST for item in found])),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--curves", type=int, default=300)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    results = {}
    planted: dict[Shape, tuple[Callable[[float], np.ndarray], tuple[float, ...]]] = {
        "step": (step, (1, 3, 6)),
        "peak": (peak, (4, 8)),
    }
    for shape, (make, scales) in planted.items():
        for lean in (0.0, 0.4):
            for name, curve in GRADUAL.items():
                results[f"{shape}; no transition, {name}; lean {lean}"] = trial(curve, shape, 0.1, lean, options.curves)
            for scale in scales:
                for size in (0.05, 0.1):
                    key = f"{shape}; planted, scale {scale}; noise {size}; lean {lean}"
                    results[key] = trial(make(scale), shape, size, lean, options.curves)
    publish({"what": "change-points of planted curves", "curves": options.curves, "results": results}, options.out)


if __name__ == "__main__":
    main()
