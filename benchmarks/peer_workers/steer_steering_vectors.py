"""Greedy answers of a model steered by steering-vectors' `SteeringVector`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from generating import generated
from steering_vectors import SteeringVector
from transformers import AutoModelForCausalLM
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    dtype = getattr(torch, job["dtype"])
    model = AutoModelForCausalLM.from_pretrained(job["model"], torch_dtype=dtype).eval()
    shift = torch.from_numpy(np.load(job["shift"])).to(dtype)
    vector = SteeringVector({job["block"]: shift}, layer_type="decoder_block")

    def run() -> dict[str, np.ndarray]:
        with vector.apply(model):
            return generated(model, job)

    return run


serve(prepare, ("steering-vectors",))
