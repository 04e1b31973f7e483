"""Activation collection against a loop in the original homework's manner: same prompts, same machine, same process.

The loop: one prompt a forward, full logits, all hidden states, `.cpu()` per block. Both read the last prompt token at
every block. Runs alternate, and the ratio is printed with its range. `short` prompts are questions of at most 16 words,
the homework's kind; `mixed` ones include whole paragraphs, where less of the work can be saved.

    python benchmarks/collect.py [--prompts 500] [--kind short|mixed] [--repeats 3] [--random-llama-1b] [--out FILE]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from publish import publish

from emscope.behaviour.questions import BUILT_IN, load_questions
from emscope.organisms.chat import encode_prompt, messages_of
from emscope.organisms.datasets import DOMAINS, load_domain
from emscope.organisms.device import choose_placement
from emscope.organisms.models import ModelSource, Organism, load
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture

MAX_SHORT = 16


def make_subject(random_llama: bool) -> Organism:
    """Return the embedded model, or a random-weight model of the shape of Llama-3.2-1B with its tokenizer."""
    organism = load("smollm2-135m")
    if not random_llama:
        return organism
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        vocab_size=128256,
        tie_word_embeddings=True,
        max_position_embeddings=8192,
    )
    place = choose_placement()
    model = AutoModelForCausalLM.from_config(config, dtype=place.dtype).to(place.device).eval()
    return Organism(ModelSource("llama-1b-shape", "random", "random"), model, organism.tokenizer, place)


@torch.no_grad()
def homework_loop(organism: Organism, prompts: list[str]) -> torch.Tensor:
    """Return the last token's hidden states [n_prompts, n_blocks, d_model], read one prompt at a time."""
    rows = []
    for prompt in prompts:
        ids = torch.tensor([encode_prompt(organism.tokenizer, messages_of(prompt))], device=organism.device)
        outputs = organism.model(input_ids=ids, output_hidden_states=True)
        rows.append(torch.stack([hidden[0, -1].cpu().float() for hidden in outputs.hidden_states[1:]]))
    return torch.stack(rows)


def ours(organism: Organism, prompts: list[str]) -> torch.Tensor:
    """Return the same, by `capture`."""
    chats = encode_for_capture(organism.tokenizer, prompts)
    return torch.from_numpy(capture(organism, chats, CaptureSettings(("last",))).pooled["last"])


def timed(function: Callable[..., torch.Tensor], *arguments: Any) -> tuple[float, torch.Tensor]:
    """Return seconds and result."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    started = time.perf_counter()
    result = function(*arguments)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started, result


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts", type=int, default=500)
    parser.add_argument("--kind", choices=["short", "mixed"], default="short")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--random-llama-1b", action="store_true")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    organism = make_subject(flags.random_llama_1b)
    texts = [question.text for name in BUILT_IN for question in load_questions(name)]
    texts += [pair.prompt for domain in DOMAINS for pair in load_domain(domain)]
    if flags.kind == "short":
        texts = [text for text in texts if len(text.split()) <= MAX_SHORT]
    prompts = texts[: flags.prompts]
    homework_loop(organism, prompts[:20])
    ours(organism, prompts[:200])  # kernels are compiled at the first shapes
    pairs = []
    for _ in range(flags.repeats):
        slow, reference = timed(homework_loop, organism, prompts)
        fast, found = timed(ours, organism, prompts)
        pairs.append((slow, fast))
    inner = slice(0, -1)  # hidden_states' last entry is after the final norm
    error = (found[:, inner] - reference[:, inner]).norm(dim=-1) / reference[:, inner].norm(dim=-1)
    ratios = [slow / fast for slow, fast in pairs]
    report = {
        "what": "activation collection, all blocks, last prompt token",
        "model": organism.source.name,
        "prompts": len(prompts),
        "kind": flags.kind,
        "mean_tokens": statistics.mean(
            len(encode_prompt(organism.tokenizer, messages_of(prompt))) for prompt in prompts
        ),
        "homework_prompts_per_second": len(prompts) / statistics.median(slow for slow, _ in pairs),
        "emscope_prompts_per_second": len(prompts) / statistics.median(fast for _, fast in pairs),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
        "median_relative_difference": float(error.median()),
    }
    publish(report, flags.out, organism.placement)


if __name__ == "__main__":
    main()
