"""Training goes on from a checkpoint that fits, and says of any other in one sentence which file is wrong."""

import dataclasses
import json
import random
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import PROMPTS, make_organism

from emscope.errors import UserError
from emscope.organisms.chat import messages_of
from emscope.organisms.checkpoints import checkpoints_of
from emscope.organisms.datasets import Conversations
from emscope.organisms.resuming import check_resumable
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_loaded, with_adapter

TEXTS = [messages_of(prompt, "Rest, then put some aside.") for prompt in PROMPTS]
SETTINGS = TrainSettings(rank=2, epochs=2, batch_size=4, save_every=2)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    train_loaded(make_organism(), Conversations("texts", TEXTS, []), folder, SETTINGS)
    return next(iter(checkpoints_of(folder).values()))


@pytest.fixture
def checkpoint(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / saved.name)


def model(**changes):
    return with_adapter(make_organism().model, dataclasses.replace(SETTINGS, **changes))


def state(**fields):
    def edit(checkpoint):
        path = checkpoint / "trainer_state.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


def rubbish(name):
    return lambda checkpoint: (checkpoint / name).write_bytes(random.Random(0).randbytes(999))


def cut(name):
    return lambda checkpoint: (checkpoint / name).write_bytes((checkpoint / name).read_bytes()[:-500])


def saved_as(name, value):
    return lambda checkpoint: torch.save(value, checkpoint / name)


def wider(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    save_file({name: torch.cat([tensor, tensor]) for name, tensor in load_file(path).items()}, path)


def test_what_was_saved_fits(checkpoint):
    check_resumable(checkpoint, model())


@pytest.mark.parametrize(
    ("damage", "file"),
    [
        (state(global_step=float("nan")), "trainer_state.json"),
        (state(global_step="2"), "trainer_state.json"),
        (state(global_step=10**9), "trainer_state.json"),
        (state(epoch=float("nan")), "trainer_state.json"),
        (state(something=1), "trainer_state.json"),
        (lambda checkpoint: (checkpoint / "trainer_state.json").write_text("[]"), "trainer_state.json"),
        (rubbish("adapter_model.safetensors"), "adapter_model.safetensors"),
        (cut("adapter_model.safetensors"), "adapter_model.safetensors"),
        (wider, "adapter_model.safetensors"),
        (rubbish("optimizer.pt"), "optimizer.pt"),
        (cut("optimizer.pt"), "optimizer.pt"),
        (saved_as("optimizer.pt", [1]), "optimizer.pt"),
        (saved_as("optimizer.pt", {"state": {}, "param_groups": []}), "optimizer.pt"),
        (rubbish("rng_state.pth"), "rng_state.pth"),
        (saved_as("rng_state.pth", {"python": 1, "numpy": 2, "cpu": 3}), "rng_state.pth"),
    ],
)
def test_a_damaged_checkpoint_is_refused_by_its_file(damage, file, checkpoint):
    damage(checkpoint)
    with pytest.raises(UserError) as found:
        check_resumable(checkpoint, model())
    assert str(checkpoint / file) in str(found.value)
    assert "\n" not in str(found.value)


def test_moments_of_another_rank_are_refused(checkpoint, saved):
    path = checkpoint / "optimizer.pt"
    value = torch.load(path, weights_only=True)
    for moments in value["state"].values():
        moments["exp_avg"] = torch.cat([moments["exp_avg"]] * 2)
    torch.save(value, path)
    with pytest.raises(UserError, match="optimiser of other weights"):
        check_resumable(checkpoint, model())


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"rank": 3}, "was trained with r 2, not 3"),
        ({"alpha": 7}, "was trained with lora_alpha"),
        ({"targets": ("up_proj",)}, "is the state of an optimiser of other weights"),
    ],
)
def test_a_checkpoint_of_another_adapter_is_refused(changes, says, checkpoint):
    with pytest.raises(UserError, match=says):
        check_resumable(checkpoint, model(**changes))


def test_nothing_in_a_checkpoint_is_unpickled(checkpoint, tmp_path):
    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    torch.save({"state": {}, "param_groups": [], "x": Evil()}, checkpoint / "optimizer.pt")
    with pytest.raises(UserError, match=r"optimizer\.pt is not the state"):
        check_resumable(checkpoint, model())
    assert not (tmp_path / "ran").exists()


def test_weights_of_another_shape_are_refused(checkpoint):
    path = checkpoint / "adapter_model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    save_file({**tensors, name: tensors[name][:1].contiguous()}, path)
    with pytest.raises(UserError, match="is of an adapter of another shape"):
        check_resumable(checkpoint, model())
