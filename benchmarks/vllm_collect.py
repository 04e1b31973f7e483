"""Texts a second whose pooled activations are read: by emscope, by emscope inside vLLM, and by vllm-lens as it comes.

All read the same texts (prompts with answers of one length), every block, and return the answers' mean and the last
prompt token as float32. vllm-lens as it comes returns every token's vector (`output_residual_stream`), which are pooled
here. Runs alternate; agreement is the least cosine over rows and blocks.

    python benchmarks/vllm_collect.py [MODEL] [--texts 64] [--answer-tokens 48] [--threads 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from publish import publish
from vllm_speed import bind

from emscope.behaviour.questions import load_questions
from emscope.behaviour.vllm_backend import VllmEngine
from emscope.organisms.chat import EncodedChat
from emscope.organisms.device import choose_placement
from emscope.organisms.models import load, resolve
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture, pooling_weights
from emscope.residual.vllm_capture import capture_in_vllm

POOLED = CaptureSettings(("last", "response"))
Read = Callable[[], np.ndarray]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", default="embedded")
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--answer-tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    bind(flags.threads)
    source, place = resolve(flags.model), choose_placement("auto", flags.dtype)
    organism = load(source, placement=place)
    chats = texts(organism.tokenizer, flags.texts, flags.answer_tokens)
    with VllmEngine(
        [source], dtype=flags.dtype, max_length=max(len(chat.ids) for chat in chats) + 8, hooks=True
    ) as engine:
        ways: dict[str, Read] = {
            "emscope": lambda: stacked(capture(organism, chats, POOLED).pooled),
            "emscope in vLLM": lambda: stacked(capture_in_vllm(engine, source, chats, POOLED).pooled),
            "vllm-lens": lambda: every_token(engine, chats),
        }
        publish(measure(ways, len(chats), flags.repeats), flags.out, place)


def texts(tokenizer: Any, n: int, answer_tokens: int) -> list[EncodedChat]:
    """Return `n` questions, each with an answer of about as many tokens."""
    questions = load_questions("everyday-general")
    asked = [questions[row % len(questions)].text for row in range(n)]
    said = " ".join(["Ask somebody who knows about this before you go on."] * answer_tokens)
    words = tokenizer.decode(tokenizer(said)["input_ids"][:answer_tokens])
    return encode_for_capture(tokenizer, asked, [words] * n)


def stacked(pooled: dict[str, np.ndarray]) -> np.ndarray:
    """Return pooled activations as [rows, poolings, blocks, d_model]."""
    return np.stack([pooled[name] for name in POOLED.poolings], axis=1)


def every_token(engine: VllmEngine, chats: list[EncodedChat]) -> np.ndarray:
    """Return the same vectors from vllm-lens's own capture of every token."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt

    prompts = [TokensPrompt(prompt_token_ids=chat.ids) for chat in chats]
    wanted = [SamplingParams(temperature=0, max_tokens=1, extra_args={"output_residual_stream": True}) for _ in chats]
    rows = []
    for chat, output in zip(chats, engine._engine.generate(prompts, wanted, use_tqdm=False), strict=True):
        hidden = output.activations["residual_stream"].float()  # [blocks, tokens, d_model]
        weights = torch.from_numpy(pooling_weights(chat, POOLED.poolings))
        rows.append(torch.einsum("pt,btd->pbd", weights, hidden).numpy())
    return np.stack(rows)


def measure(ways: dict[str, Read], n: int, repeats: int) -> dict[str, object]:
    """Return the texts a second of each way, how many times emscope's are the others', and how near the vectors are."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    last: dict[str, np.ndarray] = {}
    for run in range(repeats + 1):
        for name, read in ways.items():
            started = time.perf_counter()
            last[name] = read()
            if run:  # the first run warms up
                speeds[name].append(n / (time.perf_counter() - started))
    figures: dict[str, object] = {}
    for name, values in speeds.items():
        ratios = [ours / theirs for ours, theirs in zip(speeds["emscope"], values, strict=True)]
        figures[name] = {
            "texts_per_s": round(statistics.median(values), 1),
            "emscope_is_times_as_fast": round(statistics.median(ratios), 2),
            "range": [round(min(ratios), 2), round(max(ratios), 2)],
            "least_cosine": round(least_cosine(last["emscope"], last[name]), 5),
        }
    return figures


def least_cosine(one: np.ndarray, other: np.ndarray) -> float:
    """Return the least cosine over all vectors."""
    dot = np.einsum("...d,...d->...", one.astype(np.float64), other.astype(np.float64))
    return float((dot / np.linalg.norm(one, axis=-1) / np.linalg.norm(other, axis=-1)).min())


if __name__ == "__main__":
    main()
