from functools import partial

import pytest
import torch
from tiny import ANSWERS, CPU, PROMPTS, make_model
from torch.nn import functional

from emscope.organisms import answer_loss, head_loss
from emscope.organisms.blocks import head_logits
from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import Conversations
from emscope.organisms.head_loss import CHUNK, WHOLE, head_losses
from emscope.organisms.models import load
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_loaded

TEXTS = [messages_of(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
DATA = Conversations("texts", TEXTS * 2, TEXTS)
N, WIDTH = 37, 32


def states():
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 300, (N,), generator=generator)
    return torch.randn(N, WIDTH, generator=generator), targets, torch.rand(N, generator=generator)


def loss_and_gradients(model, **limits):
    hidden, targets, weights = states()
    hidden.requires_grad_()
    losses = head_losses(model, hidden, targets, **limits)
    (losses * weights).sum().backward()
    head = model.get_output_embeddings().weight
    gradients = [hidden.grad, *([head.grad.clone()] if head.grad is not None else [])]
    model.zero_grad()
    return losses.detach(), gradients


@pytest.mark.parametrize("chunk", [1, 1500, 10**9])
@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
@pytest.mark.parametrize("architecture", ["llama", "gemma2", "qwen3"])
def test_chunks_give_the_loss_and_the_gradients_of_all_logits_at_once(architecture, trained, chunk):
    model = make_model(architecture)
    model.get_output_embeddings().weight.requires_grad_(trained)
    losses, gradients = loss_and_gradients(model)
    chunked, own = loss_and_gradients(model, whole=0, chunk=chunk)
    torch.testing.assert_close(chunked, losses)
    assert len(own) == len(gradients) == 1 + trained
    for one, other in zip(own, gradients, strict=True):
        torch.testing.assert_close(one, other)


def test_below_the_limit_the_numbers_are_those_of_plain_cross_entropy():
    model, (hidden, targets, _) = make_model(), states()
    plain = functional.cross_entropy(head_logits(model, hidden), targets, reduction="none")
    assert torch.equal(head_losses(model, hidden, targets), plain)
    assert CHUNK <= WHOLE


def test_without_a_gradient_chunks_give_the_same_losses():
    model, (hidden, targets, _) = make_model(), states()
    with torch.inference_mode():
        torch.testing.assert_close(
            head_losses(model, hidden, targets, whole=0, chunk=900), head_losses(model, hidden, targets)
        )


@pytest.mark.parametrize("trained", [False, True], ids=["frozen head", "trained head"])
def test_no_more_than_a_chunk_of_logits_is_computed_at_once(trained, monkeypatch):
    model, sizes = make_model(), []
    model.get_output_embeddings().weight.requires_grad_(trained)

    def watched(owner, hidden):
        logits = head_logits(owner, hidden)
        sizes.append(logits.numel())
        return logits

    monkeypatch.setattr(head_loss, "head_logits", watched)
    loss_and_gradients(model, whole=5000, chunk=2100)
    assert 0 < max(sizes) <= 2100
    assert trained or sum(sizes) == N * model.config.vocab_size  # a frozen head computes none twice


def test_a_training_in_chunks_learns_what_a_training_at_once_learns(tiny_folder, tmp_path, monkeypatch):
    def trained(name):
        torch.manual_seed(0)
        organism = load(tiny_folder, placement=CPU)
        settings = TrainSettings(rank=2, batch_size=4, learning_rate=5e-3)
        return train_loaded(organism, DATA, tmp_path / name, settings)

    whole = trained("whole")
    monkeypatch.setattr(answer_loss, "head_losses", partial(head_losses, whole=0, chunk=900))
    assert trained("chunks").heldout_loss == pytest.approx(whole.heldout_loss, rel=1e-5)
