"""What bounds sampling with vLLM and with transformers on a CPU: tokens a CPU second, and shares of kinds of work.

Both sample the same prompts with the same merged weights, in this process and on one core, alternating; every answer is
`--tokens` long. CPU seconds are told beside seconds, since other jobs on the core lengthen the latter alone. The shares
are torch's profiler's, of the time inside operators; what the operators leave is Python and the scheduler.

    python benchmarks/vllm_profile.py ADAPTER [--answers 72] [--tokens 36] [--repeats 3] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from publish import publish
from vllm_speed import bind

from emscope.behaviour import sampling
from emscope.behaviour.questions import load_questions
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.vllm_check import check_text
from emscope.behaviour.vllm_merge import MergedCopy
from emscope.organisms.chat import messages_of, prepare_prompt
from emscope.organisms.device import choose_placement
from emscope.organisms.models import Organism, load, load_tokenizer, resolve

KINDS = {
    "products": r"onednn_mm|aten::(mm|addmm|bmm|linear|_linear)$|mkldnn",
    "attention": r"attention|rotary|reshape_and_cache",
    "choice of tokens": r"gumbel|aten::(exp|cumsum|searchsorted|sort|argmax|amax|softmax|_softmax|gather|topk)$",
    "copies": r"aten::(copy_|cat|clone|contiguous|index|index_select|index_put_|_index_put_impl_|fill_)$",
    "elementwise": r"aten::(mul|add|sub|div|div_|pow|silu|rsqrt|mean|sum|neg|where|add_|mul_)$",
}
Run = Callable[[], int]
SHAPES = ((960, 576), (576, 576), (3072, 576), (576, 1536), (49152, 576))
"""Weights of the embedded model: q, k and v; o; gate and up; down; the head."""


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("adapter")
    parser.add_argument("--answers", type=int, default=72)
    parser.add_argument("--tokens", type=int, default=36)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    bind(1)
    os.environ.update({"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LENS_DISABLE": "1"})
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    source, place = resolve(flags.adapter), choose_placement("cpu", flags.dtype)
    organism = load(source, placement=place)
    copy = MergedCopy.of(source, place.dtype_name, check_text(load_tokenizer(source)))
    ways: dict[str, Run] = {
        "transformers": in_transformers(organism, flags.answers, flags.tokens),
        "vllm": in_vllm(str(copy.folder), organism, flags.answers, flags.tokens),
    }
    figures = alternating(ways, flags.repeats)
    copy.remove()
    for name, run in ways.items():
        figures[f"{name}, share of the time"] = shares(run)
    for rows in (16, 72, 192):
        figures[f"packed weights, times as fast at {rows} rows"] = gain_of_packing(rows)
    publish(figures, flags.out, place)


def asked(answers: int, tokens: int) -> tuple[list[Any], SamplingSettings]:
    """Return questions, one for each answer, and how they are sampled."""
    questions = load_questions("everyday-general")
    some = [replace(questions[row % len(questions)], id=str(row)) for row in range(answers)]
    return some, SamplingSettings(max_new_tokens=tokens, temperature=1.0, batch_size=answers)


def in_transformers(organism: Organism, answers: int, tokens: int) -> Run:
    """Return what samples with transformers; no token ends an answer."""
    questions, settings = asked(answers, tokens)
    sampling.stop_tokens = lambda organism: {-1}
    return lambda: sum(row.n_tokens for row in sampling.sample_responses(organism, questions, settings))


def in_vllm(folder: str, organism: Organism, answers: int, tokens: int) -> Run:
    """Return what samples with vLLM, in this process."""
    import vllm
    from vllm.inputs import TokensPrompt

    engine = vllm.LLM(
        model=folder,
        dtype=organism.placement.dtype_name,
        max_model_len=512,
        enforce_eager=True,
        generation_config="vllm",
        disable_log_stats=True,
    )
    prompts, wanted = [], []
    for row, question in enumerate(asked(answers, tokens)[0]):
        prompts.append(
            TokensPrompt(prompt_token_ids=prepare_prompt(organism.tokenizer, messages_of(question.text)).ids)
        )
        wanted.append(
            vllm.SamplingParams(temperature=1.0, max_tokens=tokens, ignore_eos=True, seed=row, detokenize=False)
        )

    def run() -> int:
        outputs = engine.generate(prompts, wanted, use_tqdm=False)
        return sum(len(output.outputs[0].token_ids) for output in outputs)

    return run


def alternating(ways: dict[str, Run], repeats: int) -> dict[str, object]:
    """Return tokens a CPU second and a second of each way, and vLLM's over transformers'."""
    by_cpu: dict[str, list[float]] = {name: [] for name in ways}
    by_clock: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, run in ways.items():
            cpu, clock = time.process_time(), time.perf_counter()
            n = run()
            if turn:  # the first run warms up
                by_cpu[name].append(n / (time.process_time() - cpu))
                by_clock[name].append(n / (time.perf_counter() - clock))
    figures: dict[str, object] = {}
    for what, speeds in (("CPU second", by_cpu), ("second", by_clock)):
        ratios = [ours / theirs for ours, theirs in zip(speeds["vllm"], speeds["transformers"], strict=True)]
        for name, values in speeds.items():
            figures[f"{name}, tokens a {what}"] = round(statistics.median(values), 1)
        figures[f"vllm over transformers, by {what}"] = [round(ratio, 2) for ratio in sorted(ratios)]
    return figures


def gain_of_packing(rows: int, shapes: tuple[tuple[int, int], ...] = SHAPES) -> dict[str, float]:
    """Return how many times as fast a bf16 product of `rows` rows is with a weight that was packed before, by shape."""
    gains = {}
    with torch.inference_mode():
        for out, into in shapes:
            weight, given = torch.randn(out, into).bfloat16(), torch.randn(rows, into).bfloat16()
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            plain = cpu_seconds(partial(torch.nn.functional.linear, given, weight))
            ready = cpu_seconds(partial(torch.ops.mkldnn._linear_pointwise, given, packed, None, "none", [], ""))
            gains[f"{out} x {into}"] = round(plain / ready, 2)
    return gains


def cpu_seconds(product: Callable[[], Any], times: int = 5) -> float:
    """Return the least CPU seconds of several runs."""
    least = float("inf")
    for _ in range(times + 1):
        started = time.process_time()
        product()
        least = min(least, time.process_time() - started)
    return least


def shares(run: Run) -> dict[str, float]:
    """Return the share of each kind of work in one run, in percent of the time inside operators."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        run()
    spent = dict.fromkeys([*KINDS, "the rest"], 0.0)
    for entry in profiled.key_averages():
        kind = next((kind for kind, names in KINDS.items() if re.search(names, entry.key)), "the rest")
        spent[kind] += entry.self_cpu_time_total
    whole = sum(spent.values())
    return {kind: round(100 * value / whole, 1) for kind, value in spent.items()}


if __name__ == "__main__":
    main()
