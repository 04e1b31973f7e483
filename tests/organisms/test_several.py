import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import two_processes
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from tiny import make_model, save_tiny

from emscope.errors import UserError
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.device import Placement
from emscope.organisms.several import EpochBatches, OwnRows, inside_forward, refuse_tensor_parallel
from emscope.organisms.spread import check_tensor_parallel


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Return a folder in which two processes did everything that they are asked here, and one did the same alone."""
    where = tmp_path_factory.mktemp("several")
    save_tiny(where / "model")
    shape = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(make_model(), shape).save_pretrained(where / "adapter")
    tests = Path(two_processes.__file__).parent
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(tests), *sys.path])}
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*line, two_processes.__file__, str(where), *two_processes.KINDS],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return where


@pytest.fixture(scope="module")
def alone(folder):
    two_processes.train(folder, "alone")
    two_processes.train(folder, "alone-accumulated", accumulate=2, batch_size=2)
    two_processes.train(folder, "alone-bf16", save_every=0, dtype=torch.bfloat16)
    return folder


def found(folder, kind):
    return json.loads((folder / f"{kind}.json").read_text(encoding="utf-8"))


def curve(folder):
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    return [
        (row["step"], name, row[name]) for row in rows for name in ("loss", "eval_loss", "grad_norm") if name in row
    ]


def same_training(one, other, tolerance):
    ours, theirs = curve(one), curve(other)
    assert [entry[:2] for entry in ours] == [entry[:2] for entry in theirs]
    assert [entry[2] for entry in ours] == pytest.approx([entry[2] for entry in theirs], rel=tolerance)
    weights, others = (load_file(place / "adapter_model.safetensors") for place in (one, other))
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=1e-4)  # Adam enlarges rounding


@pytest.mark.parametrize("name", ["model", "adapter"])
def test_matrices_cut_over_two_processes_give_what_one_gives(folder, name):
    it = found(folder, "tensor_parallel")[name]
    assert it["cut"] >= 30
    assert max(it["differences"]) < 1e-5
    assert it["same answers"]


def test_two_processes_train_what_one_trains(alone):
    same_training(alone / "ddp", alone / "alone", 1e-5)
    same_training(alone / "accumulated", alone / "alone-accumulated", 1e-5)


def test_two_processes_go_on_from_a_checkpoint_to_the_same_bytes(folder):
    for file in ("adapter_model.safetensors", "metrics.jsonl"):
        assert (folder / "resumed" / file).read_bytes() == (folder / "ddp" / file).read_bytes()


def test_sharded_processes_train_what_one_trains(alone):
    assert min(found(alone, "sharded")["cut"]) >= 39 + 56 - 2
    same_training(alone / "fsdp", alone / "alone", 1e-5)
    for ours, theirs in zip(curve(alone / "fsdp-bf16"), curve(alone / "alone-bf16"), strict=True):
        assert ours[:2] == theirs[:2]
        if ours[1] != "grad_norm":  # of bf16 products
            assert ours[2] == pytest.approx(theirs[2], rel=2e-3)


def test_the_first_process_writes_and_speaks(folder):
    assert found(folder, "commands") == {"generate": 0, "doctor": 2, "train": 0}
    for name, file in (("generate", "a.csv"), ("train", "adapter_model.safetensors")):
        assert f"{name}.out" in (folder / f"{name}.0.txt").read_text(encoding="utf-8")
        assert (folder / f"{name}.1.txt").read_text(encoding="utf-8") == ""
        assert (folder / f"{name}.out" / file).is_file()
    for rank, said in enumerate(("emscope: 2 processes", "emscope (process 1): 2 processes")):
        assert (folder / f"doctor.{rank}.txt").read_text(encoding="utf-8").startswith(said)


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_the_rows_of_all_processes_are_those_of_the_batch(n):
    rows = [{"input_ids": list(range(1, 2 + size)), "labels": list(range(1, 2 + size))} for size in (3, 1, 4)]
    trained = []
    for rank in range(n):
        labels = OwnRows(BucketCollator(0, -100), rank, n)(rows)["labels"]
        assert len(labels)
        trained += [row[row != -100].tolist() for row in labels if (row != -100).any()]
    assert sorted(trained) == sorted(row["labels"] for row in rows)


def test_each_epoch_has_the_order_of_one_process():
    sampler, other = BucketSampler([3, 9, 4, 7, 1], 2, seed=1), BucketSampler([3, 9, 4, 7, 1], 2, seed=1)
    batches = EpochBatches(sampler, 2)
    for epoch in range(3):
        batches.batch_sampler.set_epoch(epoch)
        other.set_epoch(epoch)
        assert [row for batch in batches for row in batch] == list(other)


def test_what_is_computed_inside_a_forward_call_meets_its_hooks_and_leaves_the_module_as_it_was():
    module = torch.nn.Linear(2, 2)
    called = []
    module.register_forward_pre_hook(lambda *_: called.append("before"))
    result = inside_forward(module, {}, lambda inner: inner(torch.ones(1, 2)).sum())
    assert called == ["before", "before"]
    assert result == module(torch.ones(1, 2)).sum()
    with pytest.raises(ZeroDivisionError):
        inside_forward(module, {}, lambda _: 1 / 0)
    assert "forward" not in module.__dict__


def test_a_plan_without_processes_and_training_under_one_are_refused():
    with pytest.raises(UserError, match="torchrun"):
        check_tensor_parallel()
    with pytest.raises(UserError, match="accelerate launch"):
        refuse_tensor_parallel(Placement("cpu", torch.float32, "", tensor_parallel=True).tensor_parallel)
