"""Greedy answers of a model steered by steering-vectors' `SteeringVector`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from generating import generated
from steering_vectors import SteeringVector
from transformers import AutoConfig, AutoModelForCausalLM
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    dtype = getattr(torch, job["dtype"])
    config = AutoConfig.from_pretrained(job["model"])
    # transformers 4 does not read what version 5 writes here, and would take its default without a word
    told = json.loads((Path(job["model"]) / "config.json").read_text(encoding="utf-8"))
    config.rope_theta = told["rope_parameters"]["rope_theta"]
    model = AutoModelForCausalLM.from_pretrained(job["model"], config=config, torch_dtype=dtype).eval()
    shift = torch.from_numpy(np.load(job["shift"])).to(dtype)
    vector = SteeringVector({job["block"]: shift}, layer_type="decoder_block")

    def run() -> dict[str, np.ndarray]:
        with vector.apply(model):
            return generated(model, job)

    return run


serve(prepare, ("steering-vectors",))
