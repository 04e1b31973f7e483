"""A vocabulary of 151,936: the training loss and the choice of tokens, all logits at once against some at a time.

CPU seconds alternate in one process; the most memory that each way needs beyond what was there before is measured in a
process of its own (Linux). The head is random, 896 wide, bf16; the loss is of 256 answer tokens, its gradient included;
the tokens are those of 192 answers.

    python benchmarks/vocabulary.py [--rounds 5] [--out results.json]
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from publish import publish
from transformers import Qwen2Config, Qwen2ForCausalLM

from emscope.behaviour import sampling
from emscope.organisms.head_loss import head_losses

VOCABULARY, WIDTH, TOKENS, ANSWERS = 151_936, 896, 256, 192
WAYS = ("whole", "chunks")


def loss_step() -> Callable[[str], None]:
    """Return the loss of a batch's tokens and its gradient, either way."""
    config = Qwen2Config(vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=WIDTH, num_hidden_layers=1)
    model = Qwen2ForCausalLM(config).to(torch.bfloat16).requires_grad_(False)
    states, targets = torch.randn(TOKENS, WIDTH, dtype=torch.bfloat16), torch.randint(0, VOCABULARY, (TOKENS,))

    def step(way: str) -> None:
        hidden = states.clone().requires_grad_()
        losses = head_losses(model, hidden, targets, *([1 << 40] if way == "whole" else []))
        torch.autograd.backward(losses.mean())

    return step


def sampling_step(top_p: float) -> Callable[[str], None]:
    """Return the choice of a token for each answer, either way."""
    logits, uniforms = torch.randn(ANSWERS, VOCABULARY), torch.rand(ANSWERS, dtype=torch.float64)

    def step(way: str) -> None:
        choose = sampling._choose if way == "whole" else sampling.choose_tokens
        choose(logits, uniforms, 0.5, top_p)

    return step


JOBS: dict[str, Callable[[], Callable[[str], None]]] = {
    "loss of 256 tokens": loss_step,
    "tokens of 192 answers, top_p 1": lambda: sampling_step(1.0),
    "tokens of 192 answers, top_p 0.9": lambda: sampling_step(0.9),
}


def memory_of(job: str, way: str, threads: int) -> float:
    """Return the gigabytes that one way needs beyond its inputs."""
    torch.set_num_threads(threads)
    step = JOBS[job]()
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    before = _status("VmRSS")
    step(way)
    return (_status("VmHWM") - before) * 1024 / 1e9


def _status(field: str) -> int:
    """Return a figure of this process in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def measure(job: str, rounds: int) -> dict[str, Any]:
    """Return CPU seconds, gigabytes and the ratios of both ways."""
    step = JOBS[job]()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for number in range(rounds + 1):
        for way in WAYS:
            started = time.process_time()
            step(way)
            if number:  # the first round compiles kernels
                seconds[way].append(time.process_time() - started)
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {way: pool.apply(memory_of, (job, way, torch.get_num_threads())) for way in WAYS}
    ratios = [whole / chunks for whole, chunks in zip(seconds["whole"], seconds["chunks"], strict=True)]
    return {
        "cpu_seconds": {way: statistics.median(seconds[way]) for way in WAYS},
        "times_as_fast": statistics.median(ratios),
        "times_as_fast_range": [min(ratios), max(ratios)],
        "gigabytes": memory,
        "times_less_memory": memory["whole"] / memory["chunks"],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    figures = {job: measure(job, flags.rounds) for job in JOBS}
    publish({"what": "a vocabulary of 151,936, all logits at once against chunks", **figures}, flags.out)


if __name__ == "__main__":
    main()
