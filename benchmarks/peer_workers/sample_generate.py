"""Greedy answers by transformers' `generate`."""

from __future__ import annotations

from typing import Any

import torch
from generating import generated
from transformers import AutoModelForCausalLM
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()
    return lambda: generated(model, job)


serve(prepare)
