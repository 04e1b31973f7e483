"""Collection by nnsight: every block's output saved in one trace a batch, which is stopped after the last block."""

from __future__ import annotations

from typing import Any

import nnsight
import numpy as np
import torch
from collecting import collect
from torch import Tensor
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    model = nnsight.LanguageModel(job["model"], dtype=getattr(torch, job["dtype"]), device_map="cpu", dispatch=True)

    def read(ids: Tensor, mask: Tensor) -> list[Tensor]:
        with model.trace({"input_ids": ids, "attention_mask": mask}) as tracer:
            outputs = nnsight.save([])
            for layer in model.model.layers:
                outputs.append(layer.output)
            tracer.stop()
        return [output[0] if isinstance(output, tuple) else output for output in outputs]

    def run() -> dict[str, np.ndarray]:
        return collect(job["rows"], read)

    return run


serve(prepare, ("nnsight",))
