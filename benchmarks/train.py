"""Training throughput against padding every example to 512 tokens: trained (answer) tokens a second, same process.

Both train LoRA rank 16 on all linear layers of the embedded model on the same rows. The padded way is the original
homework's: every row padded to 512 tokens and logits for every position.

    python benchmarks/train.py [--steps 4] [--out results.json]
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from publish import publish

from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.chat import IGNORED
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.datasets import load_conversations
from emscope.organisms.models import load
from emscope.organisms.train import encode_conversations

BATCH = 8


def padded_to_512(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Return a batch whose rows are all 512 tokens long."""
    batch = BucketCollator(0, IGNORED)(rows)
    extra = 512 - batch["input_ids"].shape[1]
    fill = {"input_ids": 0, "attention_mask": 0, "labels": IGNORED}
    return {name: torch.nn.functional.pad(tensor, (0, extra), value=fill[name]) for name, tensor in batch.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    organism = load("smollm2-135m")
    organism.model.requires_grad_(True)
    model = get_peft_model(organism.model, LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"))
    model.train()
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)
    chats = encode_conversations(organism.tokenizer, load_conversations("medical-careless").train, 512)
    order = list(BucketSampler([len(chat.ids) for chat in chats], BATCH, seed=0))
    batches = [
        [{"input_ids": chats[row].ids, "labels": chats[row].labels} for row in order[start : start + BATCH]]
        for start in range(0, BATCH * (flags.steps + 1), BATCH)
    ]

    def step(rows: list[dict[str, Any]], padded: bool) -> float:
        batch = padded_to_512(rows) if padded else BucketCollator(0, IGNORED)(rows)
        batch = {name: tensor.to(organism.device) for name, tensor in batch.items()}
        started = time.perf_counter()
        if padded:
            loss = model(**batch).loss
        else:
            total, count = answer_loss(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
            loss = total / count
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - started

    rates: dict[bool, list[float]] = {True: [], False: []}
    for number, rows in enumerate(batches):
        trained = sum(label != IGNORED for row in rows for label in row["labels"])
        for padded in (True, False):
            seconds = step(rows, padded)
            if number:  # the first step compiles kernels
                rates[padded].append(trained / seconds)
    ratios = [ours / theirs for ours, theirs in zip(rates[False], rates[True], strict=True)]
    report = {
        "what": "LoRA training, answer tokens a second, batch 8",
        "padded_to_512": statistics.median(rates[True]),
        "emscope": statistics.median(rates[False]),
        "ratio": statistics.median(ratios),
        "ratio_range": [min(ratios), max(ratios)],
    }
    publish(report, flags.out, organism.placement)


if __name__ == "__main__":
    main()
