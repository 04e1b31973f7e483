"""Training a top-k autoencoder by emscope."""

from __future__ import annotations

from typing import Any

import numpy as np
from training_sae import missed, split
from worker import Run, serve

from emscope.residual.features.training import AutoencoderSettings, train_topk


def prepare(job: dict[str, Any]) -> Run:
    """Read the tokens."""
    tokens, held_out = split(job)
    per_epoch = len(tokens) // job["batch"]
    settings = AutoencoderSettings(
        expansion=job["features"] // tokens.shape[1],
        k=job["k"],
        epochs=job["steps"] // per_epoch,
        batch_size=job["batch"],
        learning_rate=job["rate"],
    )

    def run() -> dict[str, np.ndarray]:
        autoencoder = train_topk(tokens.numpy(), 0, settings).autoencoder
        return missed(held_out, autoencoder(held_out))

    return run


serve(prepare, ("emscope",))
