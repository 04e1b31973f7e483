"""Answers a second with vLLM and with transformers to the same questions, in one process; runs alternate.

A base, an adapter beside it and the same adapter merged, greedy and sampled, few and many answers at once: what differs
says what bounds each. vLLM is loaded and compared with transformers before the clock starts; both take `--threads`
threads, and both run on the same cores. (transformers reads an adapter merged in either case.)

    python benchmarks/vllm_speed.py ADAPTER [--kinds merged] [--answers 8 96] [--tokens 48] [--threads 1] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import torch
from publish import publish

from emscope.behaviour.questions import Question, load_questions
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.vllm_backend import VllmEngine, longest_request
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.models import ModelSource, load, resolve

KINDS = ("base", "adapter", "merged")
Sample = Callable[[list[Question], SamplingSettings], list[Response]]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=KINDS)
    parser.add_argument("--answers", type=int, nargs="+", default=[8, 96])
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[0.0, 1.0])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    bind(flags.threads)
    adapter, place = resolve(flags.adapter), choose_placement("auto", flags.dtype)
    questions, plain = load_questions("everyday-general"), SamplingSettings(max_new_tokens=flags.tokens)
    room = max(longest_request(adapter, questions, [plain] * len(questions)), 256)

    figures: dict[str, object] = {}
    with ExitStack() as engines:
        started = time.perf_counter()
        ways = {kind: {"transformers": with_transformers(source_of(adapter, kind), place)} for kind in flags.kinds}
        for kind, sample in with_vllm(engines, adapter, flags.kinds, flags.dtype, room).items():
            ways[kind]["vllm"] = sample
        figures["both_start_in_s"] = round(time.perf_counter() - started, 1)
        for answers in flags.answers:
            some = [replace(questions[row % len(questions)], id=str(row)) for row in range(answers)]
            for temperature in flags.temperatures:
                settings = replace(plain, temperature=temperature, batch_size=answers)
                for kind in flags.kinds:
                    cell = f"{kind}, {answers} answers, temperature {temperature:g}"
                    figures[cell] = measure(ways[kind], some, settings, flags.repeats)
                    print(cell, figures[cell], file=sys.stderr, flush=True)
    publish(figures, flags.out, place)


def bind(threads: int) -> None:
    """Have this process and vLLM's run on the same cores, the last of those that are free to it."""
    torch.set_num_threads(threads)
    cores = sorted(os.sched_getaffinity(0))[-threads:]
    os.sched_setaffinity(0, cores)
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")


def source_of(adapter: ModelSource, kind: str) -> ModelSource:
    """Return who is asked."""
    return resolve(adapter.base) if kind == "base" else adapter


def with_transformers(source: ModelSource, place: Placement) -> Sample:
    """Return what samples with transformers."""
    organism = load(source, placement=place)
    return lambda some, settings: sample_responses(organism, some, settings)


def with_vllm(engines: ExitStack, adapter: ModelSource, kinds: list[str], dtype: str, room: int) -> dict[str, Sample]:
    """Return what samples with vLLM: one engine for the base and the adapter beside it, one for the merged adapter."""
    found: dict[str, Sample] = {}
    beside = [source_of(adapter, kind) for kind in kinds if kind != "merged"]
    if beside:
        engine = engines.enter_context(VllmEngine(beside, dtype=dtype, max_length=room))
        for kind in kinds:
            if kind != "merged":
                found[kind] = sampler(engine, source_of(adapter, kind))
    if "merged" in kinds:
        merged = engines.enter_context(VllmEngine([adapter], dtype=dtype, max_length=room, merge=True))
        found["merged"] = sampler(merged, adapter)
    return found


def sampler(engine: VllmEngine, source: ModelSource) -> Sample:
    """Return what samples one source of an engine."""
    return lambda some, settings: engine.sample(source, some, settings)


def measure(
    ways: dict[str, Sample], questions: list[Question], settings: SamplingSettings, repeats: int
) -> dict[str, object]:
    """Return the tokens a second of each way (median), and vLLM's over transformers' (median, least and most)."""
    speeds: dict[str, list[float]] = {name: [] for name in ways}
    for run in range(repeats + 1):
        for name, sample in ways.items():
            started = time.perf_counter()
            rows = sample(questions, settings)
            speed = sum(row.n_tokens for row in rows) / (time.perf_counter() - started)
            if run:  # the first run warms up
                speeds[name].append(speed)
    pairs = zip(speeds["vllm"], speeds["transformers"], strict=True)
    ratios = [ours / theirs for ours, theirs in pairs]
    middle = {name: round(statistics.median(values), 1) for name, values in speeds.items()}
    spread = [round(min(ratios), 2), round(max(ratios), 2)]
    return {**middle, "ratio": round(statistics.median(ratios), 2), "range": spread}


if __name__ == "__main__":
    main()
