"""Greedy answers by emscope, steered where the job says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from generating import answers_of
from torch import Tensor
from worker import Run, serve

from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts
from emscope.interventions.operators import applied
from emscope.organisms.models import load


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    organism = load(job["name"])
    prompts = [Prompt(ids, str(row)) for row, ids in enumerate(job["prompts"])]
    settings = SamplingSettings(temperature=0, max_new_tokens=job["tokens"], batch_size=len(prompts))
    shift = torch.from_numpy(np.load(job["shift"])) if job["shift"] else None

    def steer(_block: int, hidden: Tensor) -> Tensor:
        assert shift is not None
        return (hidden.float() + shift).to(hidden.dtype)

    def run() -> dict[str, np.ndarray]:
        with applied(organism, steer if shift is not None else None, blocks=[job["block"]]):
            return answers_of(sample_prompts(organism, prompts, settings), job)

    return run


serve(prepare, ("emscope",))
