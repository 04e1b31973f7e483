"""What the guard at load costs: seconds on a random model of Llama-3.2-1B's shape, and on loading the embedded model.

The guard makes three short passes; they stand beside one plain pass over as many tokens, alternately in one process.

    python benchmarks/guard.py [--repeats 5] [--out results.json]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from publish import publish
from transformers import AutoModelForCausalLM, LlamaConfig

from emscope.organisms.device import choose_placement
from emscope.organisms.embedded import EMBEDDED_ALIAS, cache_folder
from emscope.organisms.models import load
from emscope.organisms.selfcheck import MAX_TOKENS, forward_faults

SHAPE = LlamaConfig(
    vocab_size=128256,
    hidden_size=2048,
    intermediate_size=8192,
    num_hidden_layers=16,
    num_attention_heads=32,
    num_key_value_heads=8,
    head_dim=64,
    tie_word_embeddings=True,
)
IDS = list(range(100, 100 + MAX_TOKENS))


def seconds(run: Callable[[], Any]) -> float:
    """Return how long a call takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def spread(values: list[float]) -> dict[str, float]:
    """Return median, least and most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def of_one_billion(repeats: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return seconds of the guard and of a plain pass on a random model of the 1B shape."""
    model = AutoModelForCausalLM.from_config(SHAPE, dtype=dtype).eval()
    ids = torch.tensor([IDS])
    guard, plain = [], []
    with torch.inference_mode():
        for _ in range(repeats + 1):
            plain.append(seconds(lambda: model(input_ids=ids)))
            guard.append(seconds(lambda: forward_faults(model, IDS, dtype=dtype)))
    return {"guard_seconds": spread(guard[1:]), "plain_pass_seconds": spread(plain[1:])}


def of_the_embedded(repeats: int) -> dict[str, Any]:
    """Return seconds of loading the embedded model with the guard's passes, and with its verdict known."""
    load(EMBEDDED_ALIAS)
    fresh, known = [], []
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "models").symlink_to(cache_folder() / "models")
        os.environ["EMSCOPE_CACHE"] = scratch
        for _ in range(repeats):
            for verdict in (Path(scratch) / "checks").glob("*.json"):
                verdict.unlink()
            fresh.append(seconds(lambda: load(EMBEDDED_ALIAS)))
            known.append(seconds(lambda: load(EMBEDDED_ALIAS)))
    return {"with_passes_seconds": spread(fresh), "with_verdict_seconds": spread(known)}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    place = choose_placement()
    figures = {
        "embedded_model": of_the_embedded(options.repeats),
        "one_billion": of_one_billion(options.repeats, place.dtype),
    }
    publish(figures, options.out, place)


if __name__ == "__main__":
    main()
