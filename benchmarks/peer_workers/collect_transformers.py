"""Collection by transformers alone: a forward pass with all hidden states, one example or a batch of 32 at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from collecting import collect
from torch import Tensor
from transformers import AutoModelForCausalLM
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model; `size` and `ordered` of the job say how batches are made, `head` whether logits are too."""
    model = AutoModelForCausalLM.from_pretrained(job["model"], dtype=getattr(torch, job["dtype"])).eval()
    whole = model if job["head"] else model.model

    def read(ids: Tensor, mask: Tensor) -> list[Tensor]:
        outputs = whole(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        return list(outputs.hidden_states[1:])

    def run() -> dict[str, np.ndarray]:
        return collect(job["rows"], read, job["size"], job["ordered"])

    return run


serve(prepare)
