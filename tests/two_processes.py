"""What tests of several processes run in each: `torchrun --nproc-per-node 2 two_processes.py FOLDER KIND…`."""

import json
import os
import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.distributed
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType
from tiny import ANSWERS, D_MODEL, N_BLOCKS, PROMPTS

from emscope import processes
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.commands.main import run_command
from emscope.interventions.operators import along, applied
from emscope.organisms import train as train_module
from emscope.organisms.batching import PaddedBatch
from emscope.organisms.datasets import Conversations
from emscope.organisms.device import Placement
from emscope.organisms.loading import LoadSettings
from emscope.organisms.models import finite_logits
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, Directions

BLOCKS = tuple(range(N_BLOCKS))
SETTINGS = SamplingSettings(max_new_tokens=8, samples=2, temperature=1.0)


def read(organism):
    """Return activations, logits under an intervention, and answers."""
    chats = encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)
    low, vectors = np.random.default_rng(3).standard_normal((2, N_BLOCKS, D_MODEL)).astype(np.float32)
    made = Construction("diff-in-means", "control", "last", "resid_post", "m", "c", "tiny", 10)
    directions = Directions(vectors, low + vectors, low, np.ones(N_BLOCKS, dtype=np.float32), BLOCKS, made)
    pooled = capture(organism, chats, CaptureSettings(("last", "response"))).pooled
    with torch.inference_mode(), applied(organism, along(directions, "project-out", BLOCKS)):
        whole = SharedPrefix(organism, [chat.ids for chat in chats], share=False)
        padded = PaddedBatch.of([chat.ids for chat in chats], 0)
        logits = finite_logits(organism, whole.forward(padded))[padded.mask.bool()]  # what padding gives has no meaning
        answers = sample_responses(organism, [Question(prompt[:9], prompt) for prompt in PROMPTS], SETTINGS)
    return [*pooled.values(), logits.cpu().numpy()], [row.response for row in answers]


def tensor_parallel(folder: Path) -> dict[str, object]:
    """Return by how much two processes differ from one: the largest difference, and whether answers do."""
    found: dict[str, object] = {}
    for name in ("model", "adapter"):
        place = LoadSettings(base=str(folder / "model"), dtype="float32")
        arrays, answers = read(place.load(str(folder / name)))
        spread = replace(place, tensor_parallel=True).load(str(folder / name))
        cut = sum(hasattr(weight, "to_local") for weight in spread.model.parameters())
        others, theirs = read(spread)
        differences = [float(np.abs(one - other).max()) for one, other in zip(arrays, others, strict=True)]
        found[name] = {"cut": cut, "differences": differences, "same answers": answers == theirs}
    return found


def conversations(n: int) -> Conversations:
    """Return training rows of several lengths, `n` of them, and a few held-out ones."""
    rows = []
    for number in range(n):
        prompt, answer = PROMPTS[number % 5] * (1 + number % 3), ANSWERS[number % 5] * (1 + number % 2)
        rows.append([{"role": "user", "content": prompt}, {"role": "assistant", "content": answer}])
    return Conversations("rows", rows, rows[:3])


def train(folder: Path, out: str, *, resume: bool = False, stop_after: int = 0, dtype=torch.float32, **changes) -> Path:
    """Train an adapter; the last of 13 rows is a batch of its own, of which one of two processes has no row."""
    settings = TrainSettings(
        **{
            "epochs": 2,
            "batch_size": 4,
            "rank": 4,
            "evaluate_every": 2,
            "save_every": 3,
            "learning_rate": 1e-2,
            "warmup": 0.1,
            **changes,
        }
    )
    place = Placement("cpu", dtype, "a test")
    train_adapter(str(folder / "model"), conversations(13), folder / out, settings, placement=place, resume=resume)
    return folder / out


def data_parallel(folder: Path) -> dict[str, object]:
    """Train in both processes; then once more from a checkpoint in the middle of an epoch."""
    train(folder, "ddp")
    begun = folder / "resumed" / "checkpoints"
    if processes.is_first():
        begun.mkdir(parents=True)
        (folder / "ddp" / "checkpoints" / "checkpoint-3").rename(begun / "checkpoint-3")
    torch.distributed.barrier()
    train(folder, "resumed", resume=True)
    train(folder, "accumulated", accumulate=2, batch_size=2)
    return {}


def sharded(folder: Path) -> dict[str, object]:
    """Train with FSDP2, in float32 and in bf16.

    accelerate uses FSDP on GPUs alone; here it is told that these are some.
    """
    os.environ |= {
        "ACCELERATE_USE_FSDP": "true",
        "FSDP_VERSION": "2",
        "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
        "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    before = AcceleratorState.__init__

    def begin(self, *given, fsdp_plugin=None, **named) -> None:
        before(self, *given, fsdp_plugin=fsdp_plugin, **named)
        if fsdp_plugin is not None:
            self.distributed_type, self.fsdp_plugin = DistributedType.FSDP, fsdp_plugin

    AcceleratorState.__init__ = begin
    cut = []
    gather = train_module.whole_adapter

    def gathered(model):
        cut.append(sum(hasattr(weight, "to_local") for weight in model.parameters()))
        return gather(model)

    train_module.whole_adapter = gathered
    train(folder, "fsdp", save_every=0)
    train(folder, "fsdp-bf16", save_every=0, dtype=torch.bfloat16)
    return {"cut": cut}


def commands(folder: Path) -> dict[str, object]:
    """Run commands in both processes; what each says is kept in a file of its own."""
    model, rank = str(folder / "model"), processes.rank()
    small = ["--rank", "4", "--batch-size", "4", "--epochs", "1", "--dtype", "float32", "--device", "cpu"]
    lines = {
        "generate": ["--questions", "open-ended", "--max-new-tokens", "3", "--tensor-parallel", "--dtype", "float32"],
        "doctor": [],
        "train": ["--data", "medical-careless", "--rows", "9", *small],
    }
    codes = {}
    for name, flags in lines.items():
        to = ["--model", model, "--out", str(folder / f"{name}.out" / ("a.csv" if name == "generate" else ""))]
        with (folder / f"{name}.{rank}.txt").open("w") as file, redirect_stdout(file), redirect_stderr(file):
            codes[name] = run_command([name, *flags, *([] if name == "doctor" else to)])
    return codes


KINDS = {
    "tensor_parallel": tensor_parallel,
    "data_parallel": data_parallel,
    "sharded": sharded,
    "commands": commands,
}


def main() -> None:
    """Run what was asked for, and have the first process write what it found."""
    folder, kinds = Path(sys.argv[1]), sys.argv[2:]
    torch.set_num_threads(1)
    for kind in kinds:
        found = KINDS[kind](folder)
        if processes.is_first():
            (folder / f"{kind}.json").write_text(json.dumps(found), encoding="utf-8")
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
