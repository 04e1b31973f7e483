"""LoRA training beside TRL's: trained (answer) tokens a second, peak memory, and whether the gradients agree.

Every way trains rank 16 on all linear layers of the embedded model, in bf16, on the same rows with batches of 8, in a
process of its own, alternately. TRL's trainer gets rows that are tokenised already and its own settings as they are,
but for what a way's name says. The first two steps of each compile kernels and are not counted. Wall-clock seconds are
what a user waits for; CPU seconds are shown too, for they bear other jobs on the machine better.

The gradient is that of the first batch in emscope's order, for an adapter whose second factors are small random
numbers, by the way's own loss; a way that packs is shown another batch and has none.

    OMP_NUM_THREADS=1 python benchmarks/train.py [--rows 56] [--repeats 3] [--ways emscope trl] [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from publish import publish
from torch import Tensor
from transformers import TrainerCallback

from emscope.organisms.chat import IGNORED
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.datasets import load_conversations
from emscope.organisms.device import peak_memory_bytes
from emscope.organisms.lora import with_adapter
from emscope.organisms.models import Organism, load
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import encode_conversations
from emscope.organisms.trainer import make_trainer

BATCH, COMPILED = 8, 2
OWN = "emscope"
WAYS: dict[str, dict[str, Any]] = {
    "trl": {},
    "trl without checkpointing": {"gradient_checkpointing": False},
    "trl padded to 512": {"gradient_checkpointing": False, "pad_to_multiple_of": 512},
    "trl packing": {"gradient_checkpointing": False, "packing": True, "max_length": 512, "batches": 1},
}


class Clock(TrainerCallback):  # type: ignore[misc]
    """Notes when each step ended."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the time."""
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())


def counted(collate: Any, counts: list[int]) -> Any:
    """Return a collator that notes how many tokens of each batch are trained."""

    def counting(rows: list[dict[str, Any]]) -> Any:
        batch = collate(rows)
        counts.append(int((batch["labels"][:, 1:] != IGNORED).sum()))
        return batch

    return counting


def own_trainer(organism: Organism, rows: list[Any], folder: Path) -> Any:
    """Return emscope's trainer, as `emscope train` makes it."""
    model = with_adapter(organism.model, TrainSettings())
    steps = -(-len(rows) // BATCH)
    return make_trainer(
        model, organism.tokenizer, rows, [], folder, TrainSettings(), organism.placement, steps, to_resume=True
    )


def trl_trainer(organism: Organism, rows: list[Any], folder: Path, way: dict[str, Any]) -> Any:
    """Return TRL's trainer with its own settings."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    own = TrainSettings()
    chosen = {key: value for key, value in way.items() if key != "batches"}
    arguments = SFTConfig(
        output_dir=str(folder),
        num_train_epochs=1,
        learning_rate=own.learning_rate,
        per_device_train_batch_size=way.get("batches", BATCH),
        report_to="none",
        use_cpu=True,
        save_strategy="no",
        disable_tqdm=True,
        seed=0,
        **chosen,
    )
    table = Dataset.from_list([{"input_ids": row.ids, "labels": row.labels} for row in rows])
    lora = LoraConfig(r=own.rank, lora_alpha=own.alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    return SFTTrainer(
        model=organism.model,
        args=arguments,
        train_dataset=table,
        processing_class=organism.tokenizer,
        peft_config=lora,
    )


def first_gradient(trainer: Any, rows: list[Any]) -> Tensor:
    """Return the gradient of one batch by a trainer's own loss, of an adapter that is not at its start."""
    model = trainer.model
    before = {name: item.detach().clone() for name, item in model.named_parameters() if item.requires_grad}
    torch.manual_seed(1)
    for name in sorted(before):
        if "lora_" in name:
            model.get_parameter(name).data = torch.randn(before[name].shape) * 0.01
    order = list(BucketSampler([len(row.ids) for row in rows], BATCH, seed=0))[:BATCH]
    batch = BucketCollator(0, IGNORED)([{"input_ids": rows[row].ids, "labels": rows[row].labels} for row in order])
    model.train()
    with trainer.compute_loss_context_manager():
        loss = trainer.compute_loss(model, dict(batch), num_items_in_batch=int((batch["labels"] != IGNORED).sum()))
    loss.backward()
    found = torch.cat([model.get_parameter(name).grad.flatten().double() for name in sorted(before)])
    for name, value in before.items():
        model.get_parameter(name).data = value
    model.zero_grad()
    return found


def run_way(name: str, n_rows: int, gradient: Path) -> dict[str, float]:
    """Train once and return its figures."""
    torch.manual_seed(0)
    organism = load("smollm2-135m")
    rows = encode_conversations(organism.tokenizer, load_conversations("medical-careless", rows=n_rows).train, 512)
    rows = rows[: len(rows) // BATCH * BATCH]
    counts: list[int] = []
    with tempfile.TemporaryDirectory() as folder:
        if name == OWN:
            trainer = own_trainer(organism, rows, Path(folder))
        else:
            trainer = trl_trainer(organism, rows, Path(folder), WAYS[name])
        if not WAYS.get(name, {}).get("packing"):
            torch.save(first_gradient(trainer, rows), gradient)
        trainer.data_collator = counted(trainer.data_collator, counts)
        clock = Clock()
        trainer.add_callback(clock)
        trainer.train()
    tokens = sum(counts[COMPILED : len(clock.wall)])
    return {
        "tokens a second": tokens / (clock.wall[-1] - clock.wall[COMPILED - 1]),
        "tokens a CPU second": tokens / (clock.cpu[-1] - clock.cpu[COMPILED - 1]),
        "peak memory, GB": peak_memory_bytes() / 1e9,
    }


def in_a_process(name: str, n_rows: int, gradient: Path) -> dict[str, float]:
    """Run a way in a process of its own."""
    command = [sys.executable, __file__, "--rows", str(n_rows), "--way", name, "--gradient", str(gradient)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": ""})
    return dict(json.loads(done.stdout.strip().splitlines()[-1]))


def summed_up(found: dict[str, list[dict[str, float]]], gradients: dict[str, Path]) -> dict[str, Any]:
    """Return each way's medians, and how much faster emscope was than it, run by run."""
    report: dict[str, Any] = {}
    own_gradient = torch.load(gradients[OWN])
    for name, runs in found.items():
        row: dict[str, Any] = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        if name != OWN:
            for key in ("tokens a second", "tokens a CPU second"):
                ratios = [ours[key] / theirs[key] for ours, theirs in zip(found[OWN], runs, strict=True)]
                row[f"emscope is faster, {key}"] = statistics.median(ratios)
                row[f"range, {key}"] = [min(ratios), max(ratios)]
        if name != OWN and gradients[name].is_file():
            theirs = torch.load(gradients[name])
            row["cosine of the gradients"] = float(torch.cosine_similarity(own_gradient, theirs, dim=0))
        report[name] = row
    return report


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=56)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--ways", nargs="+", default=list(WAYS))
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--gradient", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    if flags.way:
        print(json.dumps(run_way(flags.way, flags.rows, flags.gradient)))
        return
    names = [OWN, *(name for name in flags.ways if name != OWN)]
    found: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as folder:
        gradients = {name: Path(folder, f"{number}.pt") for number, name in enumerate(names)}
        for _ in range(flags.repeats):
            for name in names:
                found[name].append(in_a_process(name, flags.rows, gradients[name]))
                print(name, found[name][-1], file=sys.stderr, flush=True)
        report = summed_up(found, gradients)
    publish({"what": f"LoRA training, batch {BATCH}, {flags.rows} rows", **report}, flags.out)


if __name__ == "__main__":
    main()
