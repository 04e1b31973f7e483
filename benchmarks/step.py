"""Where a training step's time goes: CPU seconds of its parts on one thread, and its rate beside a plain product's.

Real rows, default settings; `--plain` runs the model's own modules, as models train whose blocks are of another kind.
The arithmetic counted is that of the frozen weights, forward and backward to their inputs; the product is of one row of
the MLP's matrix for each token of a batch, in the model's own dtype.

    OMP_NUM_THREADS=1 python benchmarks/step.py --model smollm2-135m [--steps 4] [--out results.json]
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from publish import publish
from torch import Tensor, nn
from transformers import DynamicCache

from emscope.organisms import answer_loss
from emscope.organisms.blocks import find_blocks
from emscope.organisms.chat import IGNORED
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.datasets import load_conversations
from emscope.organisms.device import peak_memory_bytes
from emscope.organisms.head_loss import head_losses
from emscope.organisms.lora import with_adapter
from emscope.organisms.memory import keep_freed_pages
from emscope.organisms.models import Organism, load
from emscope.organisms.packed_model import packed_blocks
from emscope.organisms.packed_rows import PackedRows
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import encode_conversations

PARTS = ("blocks forward", "head and loss with its gradient", "blocks backward", "optimiser")


class Bench:
    """A model with a fresh adapter, and the numbers of its frozen weights."""

    def __init__(self, organism: Organism, *, plain: bool) -> None:
        blocks = find_blocks(organism.model)
        linear = [module for module in blocks.modules() if isinstance(module, nn.Linear)]
        self.per_token = sum(module.weight.numel() for module in linear)
        self.head = organism.model.get_output_embeddings().weight.numel()
        self.widest = max(linear, key=lambda module: module.weight.numel()).weight.shape
        self.model = with_adapter(organism.model, TrainSettings()).train()
        self.packed = None if plain else packed_blocks(self.model)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.optimiser = torch.optim.AdamW(trained, lr=1e-4)

    def step(self, batch: dict[str, Tensor]) -> tuple[list[float], float, int]:
        """Return CPU seconds of the parts, the arithmetic of the frozen weights (FLOP) and the tokens computed."""
        ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
        shared = answer_loss._shared_untrained(ids, mask, labels)
        clock = [time.process_time()]
        states, wanted, tokens = self._states(ids, mask, labels, shared)
        clock.append(time.process_time())
        apart = states.detach().requires_grad_()
        torch.autograd.backward(head_losses(self.model, apart, wanted).mean())
        clock.append(time.process_time())
        torch.autograd.backward(states, apart.grad)
        clock.append(time.process_time())
        self.optimiser.step()
        self.optimiser.zero_grad()
        clock.append(time.process_time())
        flop = 4.0 * (self.per_token * tokens + self.head * len(wanted))
        return [after - before for before, after in pairwise(clock)], flop, tokens

    def _states(self, ids: Tensor, mask: Tensor, labels: Tensor, shared: int) -> tuple[Tensor, Tensor, int]:
        """Return final hidden states that predict, what they predict, and how many tokens were computed."""
        if self.packed is not None:
            rows = PackedRows.of(ids, mask, labels, shared, self.packed.heads)
            return self.packed.hidden_of_predicting(rows), rows.targets, len(rows.ids)
        hidden = answer_loss._hidden(self.model, ids, mask, shared, DynamicCache(config=self.model.config))[:, :-1]
        targets = labels[:, shared + 1 :]
        trained = targets != IGNORED
        return hidden[trained], targets[trained], ids[:, shared:].numel() + shared


def product_rate(rows: int, shape: torch.Size, dtype: torch.dtype) -> float:
    """Return the FLOP a second of a plain product [rows, n] · [n, m]."""
    weight, inputs = torch.randn(shape).to(dtype), torch.randn(rows, shape[1]).to(dtype)
    rates = []
    for _ in range(6):
        started = time.process_time()
        nn.functional.linear(inputs, weight)
        rates.append(2.0 * rows * weight.numel() / (time.process_time() - started))
    return statistics.median(rates[1:])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--plain", action="store_true")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    organism = load(flags.model)
    keep_freed_pages()
    bench = Bench(organism, plain=flags.plain)
    if bench.packed is None and not flags.plain:
        parser.error("this model's blocks are of another kind: add --plain")
    rows = encode_conversations(organism.tokenizer, load_conversations("medical-careless", rows=288).train, 512)
    order = list(BucketSampler([len(row.ids) for row in rows], 8, seed=0))

    def batch(number: int) -> dict[str, Any]:
        chosen = [rows[row] for row in order[8 * number : 8 * number + 8]]
        return BucketCollator(0, IGNORED)([{"input_ids": row.ids, "labels": row.labels} for row in chosen])

    bench.step(batch(0))  # compiles kernels
    found = [bench.step(batch(number + 1)) for number in range(flags.steps)]
    seconds = [statistics.mean(parts) for parts in zip(*(parts for parts, _, _ in found), strict=True)]
    tokens = round(statistics.mean(tokens for _, _, tokens in found))
    rate = sum(flop for _, flop, _ in found) / sum(sum(parts) for parts, _, _ in found)
    plain = product_rate(tokens, bench.widest, organism.placement.dtype)
    report = {
        "what": f"a training step of {Path(flags.model).name}, batch 8, CPU seconds",
        "way": "the model's own modules" if flags.plain else "packed blocks",
        **dict(zip(PARTS, seconds, strict=True)),
        "a step": sum(seconds),
        "tokens a step": tokens,
        "teraflop a second": rate / 1e12,
        "a plain product's": plain / 1e12,
        "share of a plain product's": rate / plain,
        "most memory, GB": peak_memory_bytes() / 1e9,
    }
    publish(report, flags.out, organism.placement)


if __name__ == "__main__":
    main()
