"""Collection by TransformerLens: the stream after every block from `run_with_cache`, without the unembedding."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from collecting import collect
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer
from worker import Run, serve


def prepare(job: dict[str, Any]) -> Run:
    """Load the model."""
    dtype = getattr(torch, job["dtype"])
    whole = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(job["model"])
    bridge = TransformerBridge.boot_transformers(
        job["model"], device="cpu", dtype=dtype, tokenizer=tokenizer, hf_model=whole
    )
    n_blocks = int(bridge.cfg.n_layers)
    names = [f"blocks.{block}.hook_resid_post" for block in range(n_blocks)]

    def read(ids: Tensor, mask: Tensor) -> list[Tensor]:
        _, cache = bridge.run_with_cache(
            ids, attention_mask=mask, names_filter=names, stop_at_layer=n_blocks, return_type=None
        )
        return [cache[name] for name in names]

    def run() -> dict[str, np.ndarray]:
        return collect(job["rows"], read)

    return run


serve(prepare, ("transformer-lens",))
