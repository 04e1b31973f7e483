"""Devices and dtypes of machines that are not here, by standing in for what torch says of them."""

import builtins
import pathlib
import types

import pytest
import torch

from emscope.errors import UserError
from emscope.organisms import device
from emscope.organisms.device import (
    Placement,
    choose_placement,
    memory_bytes,
    multiplies_right,
    peak_memory_bytes,
    scales_loss,
)


def machine(monkeypatch, *, cuda=False, mps=False, native_bf16=False, cpu_bf16=False, right=()):
    def is_bf16_supported(including_emulation=True):
        return including_emulation or native_bf16

    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", is_bf16_supported)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(device, "cpu_has_fast_bf16", lambda: cpu_bf16)
    monkeypatch.setattr(device, "multiplies_right", lambda where, dtype: dtype in right)


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"cuda": True, "native_bf16": True, "cpu_bf16": True}, ("cuda", torch.bfloat16)),
        ({"cuda": True}, ("cuda", torch.float16)),  # a T4: torch says it supports bf16, and means emulation
        ({"mps": True, "right": (torch.float32, torch.bfloat16)}, ("mps", torch.bfloat16)),
        ({"mps": True, "right": (torch.float32,)}, ("mps", torch.float32)),
        ({"mps": True, "cpu_bf16": True}, ("cpu", torch.bfloat16)),  # an Apple GPU that cannot multiply
        ({}, ("cpu", torch.float32)),
    ],
)
def test_auto_takes_what_the_machine_is_good_at(monkeypatch, what, expected):
    machine(monkeypatch, **what)
    place = choose_placement()
    assert (place.device, place.dtype) == expected
    assert place.reason


def test_what_is_asked_for_is_taken_or_refused(monkeypatch):
    machine(monkeypatch, cuda=True)
    assert choose_placement("cuda:0", "float32").dtype == torch.float32
    assert choose_placement("cpu", "bfloat16") == Placement("cpu", torch.bfloat16, "asked for")
    with pytest.raises(UserError, match="not available here: use auto or one of cpu, cuda"):
        choose_placement("mps")
    with pytest.raises(UserError, match="Unknown dtype"):
        choose_placement("cpu", "half")


@pytest.mark.parametrize(
    ("place", "dtype"),
    [
        (Placement("cuda", torch.float16, "an old card"), torch.float16),
        (Placement("cuda", torch.float16, "asked for"), torch.float16),
        (Placement("cpu", torch.float16, "asked for"), torch.float32),
        (Placement("cpu", torch.bfloat16, "fast"), torch.bfloat16),
    ],
)
def test_training_leaves_float16_where_no_loss_is_scaled(place, dtype):
    assert place.for_training().dtype == dtype


def test_a_card_that_emulates_bf16_trains_in_float16_with_a_scaled_loss(monkeypatch):
    for native, dtype in ((True, torch.bfloat16), (False, torch.float16)):
        machine(monkeypatch, cuda=True, native_bf16=native)
        place = choose_placement().for_training()
        assert place.dtype == dtype
        assert scales_loss(place.device, place.dtype) == (not native)


def test_a_trial_product_tells_a_device_that_errs(monkeypatch):
    assert multiplies_right("cpu", torch.float32)
    assert multiplies_right("cpu", torch.bfloat16)
    assert not multiplies_right("no such device", torch.float32)
    real = torch.Tensor.__matmul__
    wrong = iter([False, True])
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: real(a, b) * (0 if next(wrong) else 1))
    assert not multiplies_right("cpu", torch.float32)


def without(monkeypatch, *modules):
    real = builtins.__import__

    def importing(name, *rest, **more):
        if name in modules:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", importing)


def test_memory_is_known_without_the_modules_of_unix(monkeypatch):
    info = types.SimpleNamespace(peak_wset=123)
    stand_in = types.SimpleNamespace(
        Process=lambda: types.SimpleNamespace(memory_info=lambda: info),
        virtual_memory=lambda: types.SimpleNamespace(total=7, available=5),
    )
    assert peak_memory_bytes() > 2**20
    without(monkeypatch, "resource")
    monkeypatch.setattr(device, "_psutil", lambda: stand_in)
    assert peak_memory_bytes() == 123
    monkeypatch.setattr(pathlib.Path, "read_text", lambda *given, **more: (_ for _ in ()).throw(OSError))
    assert memory_bytes() == (7, 5)
    assert not device.cpu_has_fast_bf16()
    monkeypatch.setattr(device, "_psutil", lambda: None)
    assert (peak_memory_bytes(), memory_bytes()) == (0, (0, 0))
