"""Tokens a second of sampling, beside transformers' `generate` on batches of 32 sorted by length; runs alternate.

The base's answers are long and most are cut at `--tokens`; an adapter's may be short. Both ways use the same prompts,
weights (the adapter merged), dtype and threads, and sample at temperature 0.5 from the whole vocabulary. The share is
of the rate at which this machine multiplies matrices of 4,096 rows: arithmetic that the sampled tokens and the prompts
need (2 operations a weight and token; the LM head once a sampled token), by that rate and the time.

    python benchmarks/sampling.py ADAPTER [--answers 174] [--tokens 72] [--batch 192] [--repeats 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from publish import publish

from emscope.behaviour.questions import Question, load_question_sets
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses, stop_tokens
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.blocks import find_blocks
from emscope.organisms.chat import encode_prompt, messages_of
from emscope.organisms.device import choose_placement
from emscope.organisms.models import Organism, load

SETS = ("everyday-medical", "everyday-general", "open-ended")
ROWS = 32  # of a batch of `generate`
Way = Callable[[Organism, list[Question], SamplingSettings], list[int]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter")
    parser.add_argument("--answers", type=int, default=174)
    parser.add_argument("--tokens", type=int, default=72)
    parser.add_argument("--batch", type=int, default=192)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--only", choices=["emscope", "generate"], help="measure one way alone")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)

    place = choose_placement("auto", flags.dtype)
    adapter = load(flags.adapter, placement=place)
    organisms = {"base": load(adapter.source.base, placement=place), "adapter": adapter}
    questions = load_question_sets(SETS)[: flags.answers]
    settings = SamplingSettings(temperature=0.5, max_new_tokens=flags.tokens, batch_size=flags.batch)
    ways: dict[str, Way] = {"emscope": with_emscope, "generate": with_generate}
    ways = ways if flags.only is None else {flags.only: ways[flags.only]}

    rate = product_rate(place.dtype)
    figures: dict[str, Any] = {"product_gflops": round(rate / 1e9)}
    for name, organism in organisms.items():
        figures[name] = measure(ways, organism, questions, settings, flags.repeats, rate)
        print(name, figures[name], file=sys.stderr, flush=True)
    publish(figures, flags.out, place)


def measure(
    ways: dict[str, Way],
    organism: Organism,
    questions: list[Question],
    settings: SamplingSettings,
    repeats: int,
    rate: float,
) -> dict[str, Any]:
    """Return each way's tokens a second (median, least, most) and share of the rate, and how they compare."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    shares: dict[str, list[float]] = {name: [] for name in ways}
    lengths: dict[str, float] = {}
    for run in range(repeats + 1):
        for name, sample in ways.items():
            started = time.perf_counter()
            tokens = sample(organism, questions, settings)
            seconds = time.perf_counter() - started
            lengths[name] = round(sum(tokens) / len(tokens), 1)
            if run:  # the first run warms up
                speeds[name].append(sum(tokens) / seconds)
                shares[name].append(operations(organism, questions, sum(tokens)) / seconds / rate)
    found: dict[str, Any] = {"tokens_an_answer": lengths}
    for name in ways:
        found[name] = [round(value, 1) for value in (statistics.median(speeds[name]), *ends(speeds[name]))]
        found[f"{name}_share"] = round(statistics.median(shares[name]), 3)
    if len(ways) == 2:
        ratios = [ours / theirs for ours, theirs in zip(speeds["emscope"], speeds["generate"], strict=True)]
        found["ratio"] = [round(value, 2) for value in (statistics.median(ratios), *ends(ratios))]
    return found


def ends(values: list[float]) -> tuple[float, float]:
    """Return the least and the most."""
    return min(values), max(values)


def with_emscope(organism: Organism, questions: list[Question], settings: SamplingSettings) -> list[int]:
    """Return the number of tokens of each answer."""
    return [row.n_tokens for row in sample_responses(organism, questions, settings)]


@torch.inference_mode()
def with_generate(organism: Organism, questions: list[Question], settings: SamplingSettings) -> list[int]:
    """Return the number of tokens of each answer of transformers' `generate`, padding left out."""
    tokenizer, stops = organism.tokenizer, stop_tokens(organism)
    prompts = sorted((encode_prompt(tokenizer, messages_of(question.text)) for question in questions), key=len)
    counts = []
    for start in range(0, len(prompts), ROWS):
        some = prompts[start : start + ROWS]
        batch = PaddedBatch.of(some, tokenizer.pad_token_id or 0, side="left", width=max(map(len, some)))
        ids = organism.model.generate(
            batch.ids.to(organism.device),
            attention_mask=batch.mask.to(organism.device),
            do_sample=True,
            temperature=settings.temperature,
            top_k=0,
            top_p=1.0,
            max_new_tokens=settings.max_new_tokens,
            pad_token_id=tokenizer.pad_token_id or 0,
        )
        for row in ids[:, batch.ids.shape[1] :].tolist():
            counts.append(answer_length(row, stops))
    return counts


def answer_length(tokens: list[int], stops: set[int]) -> int:
    """Return how many tokens an answer has, its stop token included."""
    for place, token in enumerate(tokens):
        if token in stops:
            return place + 1
    return len(tokens)


def operations(organism: Organism, questions: list[Question], n_sampled: int) -> float:
    """Return the arithmetic that prompts and answers need: 2 operations a weight and token, attention left out."""
    n_prompt = sum(len(encode_prompt(organism.tokenizer, messages_of(question.text))) for question in questions)
    blocks: int = sum(weight.numel() for weight in find_blocks(organism.model).parameters() if weight.dim() > 1)
    head = int(organism.model.get_output_embeddings().weight.numel())
    return 2.0 * ((n_prompt + n_sampled) * blocks + n_sampled * head)


@torch.inference_mode()
def product_rate(dtype: torch.dtype, rows: int = 4096, repeats: int = 5) -> float:
    """Return operations a second of one product [4096, 2048] · [2048, 2048], the best of some."""
    left, right = torch.randn(rows, 2048).to(dtype), torch.randn(2048, 2048).to(dtype)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        torch.nn.functional.linear(left, right)
        best = min(best, time.perf_counter() - started)
    return 2.0 * rows * 2048 * 2048 / best


if __name__ == "__main__":
    main()
