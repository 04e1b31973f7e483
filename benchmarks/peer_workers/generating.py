"""What the sampling peers share: transformers' `generate` on batches of 32 prompts sorted by length, greedily.

A job has `prompts` (token ids), `stops` (token ids that end an answer), `tokens` (how many are asked for) and, where it
steers, a vector file `shift` float32 [d_model] that is added to the output of block `block`. Results: `answers`, int64
[n_prompts, tokens] with -1 after an answer's end, and `work`, the number of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

ROWS = 32


def answers_of(sequences: Sequence[Sequence[int]], job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the results from the tokens that followed each prompt; what comes after a stop token is left out."""
    answers = np.full((len(sequences), job["tokens"]), -1, dtype=np.int64)
    for row, tokens in enumerate(sequences):
        for place, token in enumerate(list(tokens)[: job["tokens"]]):
            answers[row, place] = token
            if token in job["stops"]:
                break
    return {"answers": answers, "work": np.array((answers >= 0).sum())}


@torch.inference_mode()
def generated(model: Any, job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return what `generate` samples."""
    prompts = job["prompts"]
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        width = max(len(prompts[row]) for row in rows)
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.long)
        for place, row in enumerate(rows):
            ids[place, width - len(prompts[row]) :] = torch.tensor(prompts[row])
            mask[place, width - len(prompts[row]) :] = 1
        out = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, max_new_tokens=job["tokens"], pad_token_id=0
        )
        for row, tokens in zip(rows, out[:, width:].tolist(), strict=True):
            found[row] = tokens
    return answers_of(found, job)
