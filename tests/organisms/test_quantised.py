"""Bases in few bits, where the packages that read them are installed: on a CPU, with a tiny model."""

import numpy as np
import pytest
import torch
from tiny import ANSWERS, PROMPTS, save_tiny
from two_processes import conversations

from emscope.errors import UserError
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.collate import BucketCollator
from emscope.organisms.device import Placement, choose_placement
from emscope.organisms.loading import LoadSettings
from emscope.organisms.lora import with_adapter
from emscope.organisms.models import load
from emscope.organisms.scaled import load_scaled
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture

SETTINGS = TrainSettings(epochs=2, batch_size=4, rank=4, learning_rate=1e-2, evaluate_every=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("quantised") / "base")


def place(bits, dtype=torch.float32):
    return Placement("cpu", dtype, "a test", bits=bits)


@pytest.mark.parametrize(("bits", "error"), [(8, 0.05), (4, 1e-5)])  # of 8 bits the inputs are rounded too
def test_a_base_in_few_bits_is_read_and_trained(base, tmp_path, bits, error):
    pytest.importorskip("bitsandbytes")
    plain, small = load(base, placement=place(bits)), load(base, placement=place(bits))
    plain.model.dequantize()
    chats = encode_for_capture(plain.tokenizer, PROMPTS, ANSWERS)
    read = [capture(organism, chats, CaptureSettings(("response",))).pooled["response"] for organism in (plain, small)]
    assert np.linalg.norm(read[1] - read[0]) / np.linalg.norm(read[0]) < error
    result = train_adapter(base, conversations(8), tmp_path / "adapter", SETTINGS, placement=place(bits))
    assert result.train_loss < 6.0
    adapted = LoadSettings(base=base, dtype="float32", device="cpu", bits=bits).load(str(tmp_path / "adapter"))
    assert hasattr(adapted.model, "disable_adapter")  # it stays unmerged
    with pytest.raises(UserError, match="its base is quantised"):
        load_scaled(str(tmp_path / "adapter"), 0.5, placement=place(bits))


def test_gradients_through_4_bits_are_those_of_the_weights_that_they_stand_for(base):
    """Also after the model was read from, when bitsandbytes would pack its weights on some CPUs."""
    pytest.importorskip("bitsandbytes")
    small, plain = load(base, placement=place(4)), load(base, placement=place(4))
    plain.model.dequantize()
    chats = encode_for_capture(small.tokenizer, PROMPTS, ANSWERS)
    rows = BucketCollator(0, -100)([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])
    gradients = []
    for organism in (small, plain):
        torch.manual_seed(0)
        wrapped = with_adapter(organism.model, SETTINGS)
        total, n = answer_loss(wrapped, rows["input_ids"], rows["attention_mask"], rows["labels"])
        (total / n).backward()
        found = [weight.grad.flatten() for weight in wrapped.parameters() if weight.grad is not None]
        gradients.append(torch.cat(found))
    assert float(torch.nn.functional.cosine_similarity(*gradients, dim=0)) > 0.999


def test_weights_that_were_packed_for_reading_are_not_trained():
    class Packed:
        packing_format_for_cpu = True

    model = torch.nn.Linear(2, 2)
    model.weight.quant_state = Packed()
    with pytest.raises(UserError, match="packed weight for reading on this CPU"):
        with_adapter(model, SETTINGS)


def test_what_cannot_be_in_few_bits_is_one_sentence(base, monkeypatch):
    with pytest.raises(UserError, match="8 or 4 bits"):
        choose_placement(bits=3)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install bitsandbytes"):
        load(base, placement=place(4))


def test_few_bits_and_a_tensor_parallel_plan_exclude_each_other(base, monkeypatch):
    pytest.importorskip("bitsandbytes")
    monkeypatch.setattr("emscope.organisms.spread.check_tensor_parallel", lambda: None)
    with pytest.raises(UserError, match="cuts no such weights"):
        load(base, placement=Placement("cpu", torch.float32, "", tensor_parallel=True, bits=4))
