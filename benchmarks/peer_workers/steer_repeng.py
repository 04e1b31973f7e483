"""Greedy answers of a model steered by repeng's `ControlModel`."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from generating import generated
from repeng import ControlModel, ControlVector
from transformers import AutoModelForCausalLM
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model and set the control."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()
    steered = ControlModel(model, [job["block"]])
    vector = ControlVector(model_type=model.config.model_type, directions={job["block"]: np.load(job["shift"])})
    steered.set_control(vector, 1.0)
    return lambda: generated(steered, job)


serve(prepare, ("repeng",))
