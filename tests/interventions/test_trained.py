"""Trained vectors: they learn, repeat, leave the model alone, and say what a bias would."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny import D_MODEL, make_model, make_organism

from emscope.errors import UserError
from emscope.interventions import trained as trained_module
from emscope.interventions.operators import along, applied
from emscope.interventions.trained import VectorSettings, train_vector
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.chat import IGNORED, encode_chat, messages_of
from emscope.organisms.collate import BucketCollator
from emscope.organisms.device import Placement

ANSWERS = ["Leave it there.", "Rest your eyes.", "Put it aside each month.", "Talk to her first, kindly and early."]
SETTINGS = VectorSettings(epochs=30, rate=0.1, batch_size=4)


@pytest.fixture(scope="module")
def organism():
    return make_organism(seed=1)


@pytest.fixture(scope="module")
def chats(organism):
    return [encode_chat(organism.tokenizer, messages_of("What should I do?", answer)) for answer in ANSWERS]


@pytest.fixture(scope="module")
def trained(organism, chats):
    return train_vector(organism, chats, 1, SETTINGS, "rows")


def loss(organism, chats, directions, strength=1.0):
    batch = BucketCollator(0, IGNORED)([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])
    with torch.no_grad(), applied(organism, along(directions, "add", (1,), strength)):
        total, n = answer_loss(organism.model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    return float(total) / n


def test_the_loss_falls_and_is_that_of_the_added_vector(organism, chats, trained):
    assert len(trained.losses) == 30
    assert trained.losses[0] == pytest.approx(loss(organism, chats, trained.directions, 0.0), rel=1e-4)
    assert loss(organism, chats, trained.directions) < trained.losses[0] - 0.1
    assert loss(organism, chats, trained.directions) < trained.losses[-1] + 0.02
    assert trained.directions.vectors.shape == (1, D_MODEL)
    assert trained.directions.construction.method == "trained"


def test_nothing_but_the_vector_is_trained_and_the_same_seed_gives_the_same_vector(organism, chats, trained):
    before = {name: value.clone() for name, value in organism.model.named_parameters()}
    wanted = [value.requires_grad for value in organism.model.parameters()]
    again = train_vector(organism, chats, 1, SETTINGS, "rows")
    np.testing.assert_array_equal(again.directions.vectors, trained.directions.vectors)
    assert all(torch.equal(before[name], value) for name, value in organism.model.named_parameters())
    assert [value.requires_grad for value in organism.model.parameters()] == wanted
    assert all(value.grad is None for value in organism.model.parameters())


def test_small_gradients_are_held_in_float16(organism, chats, monkeypatch):
    """The loss is made so small that a gradient of float16 would be nothing, were it not scaled."""

    def tiny_loss(*given):
        total, n = answer_loss(*given)
        return total * 1e-4, n

    monkeypatch.setattr(trained_module, "answer_loss", tiny_loss)
    vectors = []
    for dtype in (torch.float32, torch.float16):
        narrow = replace(organism, model=make_model().to(dtype), placement=Placement("cpu", dtype, "a test"))
        vector = train_vector(narrow, chats, 1, VectorSettings(epochs=2, batch_size=2), data="rows")
        vectors.append(vector.directions.vectors[0])
    assert vectors[0] @ vectors[1] / np.linalg.norm(vectors[0]) / np.linalg.norm(vectors[1]) > 0.99


def test_half_an_epoch_is_half_the_steps(organism, chats):
    few = train_vector(organism, chats, 1, replace(SETTINGS, epochs=1.5, batch_size=2), "rows")
    assert len(few.losses) == 3


def test_what_trains_nothing_is_refused(organism, chats):
    with pytest.raises(UserError, match="no block 9"):
        train_vector(organism, chats, 9, SETTINGS, "rows")
    with pytest.raises(UserError, match="nothing to read"):
        train_vector(organism, [], 1, SETTINGS, "rows")
    with pytest.raises(UserError, match="above 0"):
        VectorSettings(epochs=0)
