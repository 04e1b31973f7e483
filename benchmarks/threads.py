"""Steps of training on a machine where other jobs run: threads that spin while they wait, that soon sleep, and one.

OpenMP's threads spin at the end of every operation until the last has come; beside other jobs the last one may not be
running. emscope's commands set GOMP_SPINCOUNT to 2000 unless the user's environment says otherwise. Every way runs in a
process of its own, alternately; what else the machine does is shown by its load.

    python benchmarks/threads.py [--rounds 2] [--steps 6] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from publish import publish

from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.chat import IGNORED
from emscope.organisms.collate import BucketCollator
from emscope.organisms.datasets import load_conversations
from emscope.organisms.lora import with_adapter
from emscope.organisms.models import load
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import encode_conversations

WAYS = {
    "two threads, the library's spinning": {"OMP_NUM_THREADS": "2"},
    "two threads, 2000 spins": {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "2000"},
    "one thread": {"OMP_NUM_THREADS": "1"},
}
INHERITED = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def train_some(steps: int) -> None:
    """Print the seconds and CPU seconds of a step of the embedded model at the default settings."""
    organism = load("smollm2-135m")
    rows = encode_conversations(organism.tokenizer, load_conversations("medical-careless", rows=64).train, 512)
    model = with_adapter(organism.model, TrainSettings()).train()
    batch = BucketCollator(0, IGNORED)([{"input_ids": row.ids, "labels": row.labels} for row in rows[:8]])

    def step() -> None:
        total, count = answer_loss(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
        torch.autograd.backward(total / count)

    step()  # compiles kernels
    started, busy = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    seconds = ((time.perf_counter() - started) / steps, (time.process_time() - busy) / steps)
    sys.stdout.write(json.dumps([*seconds, os.getloadavg()[0]]) + "\n")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--once", action="store_true", help="one way, in this process")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    if flags.once:
        train_some(flags.steps)
        return
    found: dict[str, list[list[float]]] = {way: [] for way in WAYS}
    plain = {name: value for name, value in os.environ.items() if name not in INHERITED}
    for _ in range(flags.rounds):
        for way, environment in WAYS.items():
            command = [sys.executable, __file__, "--once", "--steps", str(flags.steps)]
            shown = subprocess.run(command, env=plain | environment, capture_output=True, text=True, check=True).stdout
            found[way].append(json.loads(shown.splitlines()[-1]))
    kinds = ("seconds_a_step", "cpu_seconds_a_step", "load")
    columns = {
        way: dict(zip(kinds, map(statistics.median, zip(*rows, strict=True)), strict=True))
        for way, rows in found.items()
    }
    publish({"what": "training steps of the embedded model, batch 8, beside other jobs", **columns}, flags.out)


if __name__ == "__main__":
    main()
