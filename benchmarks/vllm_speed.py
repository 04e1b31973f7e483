"""Answers a second with vLLM and with transformers to the same questions, in one process; runs alternate.

A base and an adapter, greedy and sampled, few and many answers at once: what differs says what bounds each. vLLM is
loaded and compared with transformers before the clock starts; both take `--threads` threads.

    python benchmarks/vllm_speed.py ADAPTER [--answers 8 96] [--tokens 48] [--repeats 3] [--dtype auto] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from publish import publish

from emscope.behaviour.questions import Question, load_questions
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.vllm_backend import VllmEngine, longest_request
from emscope.organisms.device import choose_placement
from emscope.organisms.models import ModelSource, load, resolve

Sample = Callable[[ModelSource, list[Question], SamplingSettings], list[Response]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter")
    parser.add_argument("--answers", type=int, nargs="+", default=[8, 96])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", f"0-{flags.threads - 1}")
    adapter = resolve(flags.adapter)
    sources = {"base": resolve(adapter.base), "adapter": adapter}
    place = choose_placement("auto", flags.dtype)
    organisms = {source: load(source, placement=place) for source in sources.values()}
    questions, plain = load_questions("everyday-general"), SamplingSettings(max_new_tokens=flags.tokens)
    room = max(longest_request(source, questions, [plain] * len(questions)) for source in sources.values())

    def with_transformers(source: ModelSource, some: list[Question], settings: SamplingSettings) -> list[Response]:
        return sample_responses(organisms[source], some, settings)

    started = time.perf_counter()
    with VllmEngine(list(sources.values()), dtype=flags.dtype, max_length=room) as engine:
        figures: dict[str, object] = {"vllm_starts_in_s": round(time.perf_counter() - started, 1)}
        ways: dict[str, Sample] = {"transformers": with_transformers, "vllm": engine.sample}
        for answers in flags.answers:
            some = [replace(questions[row % len(questions)], id=str(row)) for row in range(answers)]
            for temperature in (0.0, 1.0):
                settings = replace(plain, temperature=temperature, batch_size=answers)
                for name, source in sources.items():
                    cell = f"{name}, {answers} answers, temperature {temperature:g}"
                    figures[cell] = measure(ways, source, some, settings, flags.repeats)
                    print(cell, figures[cell], file=sys.stderr, flush=True)
    publish(figures, flags.out, place)


def measure(
    ways: dict[str, Sample], source: ModelSource, questions: list[Question], settings: SamplingSettings, repeats: int
) -> dict[str, float]:
    """Return the tokens a second of each way, and how many times transformers' vLLM's are (each: median of runs)."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(repeats + 1):
        for name, sample in ways.items():
            started = time.perf_counter()
            rows = sample(source, questions, settings)
            speed = sum(row.n_tokens for row in rows) / (time.perf_counter() - started)
            if run:  # the first run warms up
                speeds[name].append(speed)
    pairs = zip(speeds["vllm"], speeds["transformers"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return {name: round(statistics.median(values), 1) for name, values in speeds.items()} | {"ratio": round(ratio, 2)}


if __name__ == "__main__":
    main()
