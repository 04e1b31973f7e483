"""Collection by nnterp: `layers_output` of every block in one trace a batch, which is stopped after the last block."""

from __future__ import annotations

from typing import Any

import nnsight
import numpy as np
import torch
from collecting import collect
from nnterp import StandardizedTransformer
from torch import Tensor
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    model = StandardizedTransformer(job["model"], dtype=getattr(torch, job["dtype"]), device_map="cpu")

    def read(ids: Tensor, mask: Tensor) -> list[Tensor]:
        with model.trace({"input_ids": ids, "attention_mask": mask}) as tracer:
            outputs = nnsight.save([])
            for block in range(model.num_layers):
                outputs.append(model.layers_output[block])
            tracer.stop()
        return list(outputs)

    def run() -> dict[str, np.ndarray]:
        return collect(job["rows"], read)

    return run


serve(prepare, ("nnterp", "nnsight"))
