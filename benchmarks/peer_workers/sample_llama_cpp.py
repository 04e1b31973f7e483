"""Greedy answers by llama.cpp's server (xllamacpp) with 32 slots, of the same weights in bf16.

The model comes to it as a GGUF file whose quantised tensors were written out in bf16: the embedded model's own weights.
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import xllamacpp
from worker import Run, serve

SLOTS = 32


def answers_of(sequences: list[list[int]], job: dict[str, Any]) -> dict[str, np.ndarray]:
    """Return the results from the tokens that followed each prompt."""
    answers = np.full((len(sequences), job["tokens"]), -1, dtype=np.int64)
    for row, tokens in enumerate(sequences):
        answers[row, : len(tokens)] = tokens
    return {"answers": answers, "work": np.array((answers >= 0).sum())}


def prepare(job: dict[str, Any]) -> Run:
    """Load the model into a server of this process."""
    settings = xllamacpp.CommonParams()
    settings.model.path = job["gguf"]
    settings.n_parallel, settings.n_ctx = SLOTS, SLOTS * 512
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = job["threads"]
    settings.port = 0
    server = xllamacpp.Server(settings)

    def complete(ids: list[int]) -> list[int]:
        asked = {"prompt": ids, "n_predict": job["tokens"], "temperature": 0, "return_tokens": True}
        reply = server.handle_completions(json.dumps(asked))
        told = json.loads(reply) if isinstance(reply, str | bytes) else reply
        return list(told["tokens"])

    def run() -> dict[str, np.ndarray]:
        with ThreadPoolExecutor(SLOTS) as pool:
            return answers_of(list(pool.map(complete, job["prompts"])), job)

    return run


serve(prepare, ("xllamacpp",))
