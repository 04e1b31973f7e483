"""Training a top-k autoencoder by sparsify's `SparseCoder`, with the steps of its trainer on a matrix of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sparsify import SparseCoder
from sparsify.config import SparseCoderConfig
from training_sae import endless, missed, split
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Read the tokens."""
    tokens, held_out = split(job)
    steps, cool_down = job["steps"], 0.3 * job["steps"]

    def run() -> dict[str, np.ndarray]:
        torch.manual_seed(0)
        coder = SparseCoder(tokens.shape[1], SparseCoderConfig(num_latents=job["features"], k=job["k"]), device="cpu")
        optimiser = torch.optim.Adam(coder.parameters(), lr=job["rate"])
        batches = endless(tokens, job["batch"])
        for step in range(steps):
            for group in optimiser.param_groups:
                group["lr"] = job["rate"] * min(1.0, (steps - step) / cool_down)
            coder.set_decoder_norm_to_unit_norm()
            coder(next(batches)).fvu.backward()
            coder.remove_gradient_parallel_to_decoder_directions()
            optimiser.step()
            optimiser.zero_grad()
        with torch.no_grad():
            return missed(held_out, coder(held_out).sae_out)

    return run


serve(prepare, ("eai-sparsify",))
