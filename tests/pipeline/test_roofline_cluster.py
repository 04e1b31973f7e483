"""What stages take on GPUs by formula: they fit, more GPUs are never slower, activations are those that torch keeps."""

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import make_model

from emscope.errors import UserError
from emscope.organisms.lora import with_adapter
from emscope.organisms.settings import TrainSettings
from emscope.pipeline.roofline.cluster import (
    H100,
    STAGES,
    USABLE,
    WEIGHT,
    Job,
    Shares,
    activation_bytes,
    best_shard_seconds,
    load_seconds,
    needs,
    sum_seconds,
)
from emscope.pipeline.roofline.shape import shape_of
from emscope.pipeline.roofline.subject import named_shape

SHAPES = {name: named_shape(name) for name in ("1b", "7b", "70b", "30b-a3b")}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("n_gpus", [1, 2, 8, 16, 64])
def test_every_stage_fits_the_gpus(name, n_gpus):
    try:
        found = needs(SHAPES[name], H100, n_gpus, Job(), Shares())
    except UserError:
        assert SHAPES[name].n_weights * WEIGHT > 0.8 * n_gpus * USABLE * H100.memory
        return
    assert tuple(need.stage for need in found) == STAGES
    for need in found:
        assert need.gpus * need.copies <= n_gpus
        assert need.memory <= USABLE * H100.memory * 1.01


@settings(deadline=None, max_examples=20)
@given(st.sampled_from(sorted(SHAPES)), st.integers(1, 4), st.integers(1, 40), st.integers(100, 10**6))
def test_more_gpus_are_never_slower(name, organisms, batch, answers):
    job = Job(organisms=organisms, batch=batch, answers=answers)
    before = {stage: float("inf") for stage in STAGES}
    for n_gpus in (4, 8, 16, 32, 64):
        for need in needs(SHAPES[name], H100, n_gpus, job, Shares()):
            assert need.seconds <= before[need.stage] * 1.001
            before[need.stage] = need.seconds


def test_half_the_share_takes_twice_as_long():
    whole = needs(SHAPES["7b"], H100, 1, Job(), Shares(0.4, 0.4, 0.4, 0.4))
    half = needs(SHAPES["7b"], H100, 1, Job(), Shares(0.2, 0.2, 0.2, 0.2))
    for one, two in zip(whole, half, strict=True):
        assert two.seconds == pytest.approx(2 * one.seconds)


def test_a_model_that_does_not_fit_is_refused():
    with pytest.raises(UserError, match="1 H100 SXM do not hold a model of 71 billion weights"):
        needs(SHAPES["70b"], H100, 1, Job(), Shares())
    small = dataclasses.replace(H100, memory=20e9)
    with pytest.raises(UserError, match="do not hold a batch of 4096 rows"):
        needs(SHAPES["7b"], small, 1, Job(batch=4096), Shares())


def test_activations_are_about_those_that_torch_keeps():
    model, rows, tokens = make_model(), 2, 40
    shape = shape_of(model)
    wrapped = with_adapter(model, TrainSettings(rank=2))
    weights = {weight.data_ptr() for weight in wrapped.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.data_ptr() not in weights and tensor.dtype == torch.float32:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    ids = torch.randint(0, 50, (rows, tokens))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden = wrapped.get_base_model().model(input_ids=ids).last_hidden_state
    assert hidden.requires_grad
    expected = activation_bytes(shape, rows * tokens, trained=True) * 4 / WEIGHT  # here in float32
    scores = 2 * 4 * rows * 4 * tokens * tokens * shape.n_blocks  # which plain attention keeps, and others do not
    assert 0.5 * expected < sum(kept.values()) - scores < 2 * expected
    checkpointed = activation_bytes(shape, rows * tokens, trained=True, checkpointed=True)
    read = activation_bytes(shape, rows * tokens, trained=False)
    assert read < checkpointed < activation_bytes(shape, rows * tokens, trained=True)


def test_one_store_serves_many_machines_at_its_own_pace():
    assert load_seconds(100.0, 1, 10.0, 50.0) == 10.0
    assert load_seconds(100.0, 5, 10.0, 50.0) == 10.0
    assert load_seconds(100.0, 50, 10.0, 50.0) == 100.0


@given(st.floats(0.1, 100), st.floats(10, 1e6), st.floats(10, 1e6))
def test_the_best_shard_costs_least(overhead, mtbf, work):
    def cost(seconds):
        return overhead / seconds + seconds / 2 / mtbf + seconds / 2 / work

    best = best_shard_seconds(overhead, mtbf, work)
    assert cost(best) <= min(cost(0.9 * best), cost(1.1 * best))


def test_gradients_of_one_copy_need_no_exchange():
    assert sum_seconds(1e9, H100, 1, 1) == 0
    assert sum_seconds(1e9, H100, 8, 1) < sum_seconds(1e9, H100, 16, 1)
