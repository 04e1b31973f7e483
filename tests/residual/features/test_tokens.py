import numpy as np
import pytest
import torch
from tiny import ANSWERS, D_MODEL, PROMPTS, make_organism

from emscope.errors import UserError
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.batching import PaddedBatch, shared_prefix_length
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.features.tokens import answer_losses, capture_tokens

BLOCK = 2


def chats_of(organism, system="Be kind and brief to all."):
    return encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS, system=system)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2"])
@pytest.mark.parametrize("budget", [40, 4096])
def test_every_token_after_the_prefix_is_what_a_plain_pass_gives(architecture, budget):
    organism = make_organism(architecture)
    chats = chats_of(organism)
    found = capture_tokens(organism, chats, BLOCK, token_budget=budget)
    first = len(chats[0].ids) - (found.chat == 0).sum()
    for row, chat in enumerate(chats):
        plain = organism.model(torch.tensor([chat.ids]), output_hidden_states=True).hidden_states[BLOCK + 1][0]
        own = found.chat == row
        np.testing.assert_allclose(found.values[own], plain[first:].numpy(), rtol=1e-3, atol=1e-4)
        assert found.ids[own].tolist() == chat.ids[first:]
        assert found.is_answer[own].tolist() == chat.is_answer[first:]


def test_the_shared_prefix_or_else_the_first_token_is_left_out(organism):
    chats = chats_of(organism)
    shared = shared_prefix_length([chat.ids for chat in chats])
    assert (capture_tokens(organism, chats, BLOCK).chat == 0).sum() == len(chats[0].ids) - shared
    assert len(capture_tokens(organism, chats[:1], BLOCK).values) == len(chats[0].ids) - 1


def test_answer_tokens_average_to_the_captured_response(organism):
    chats = chats_of(organism)
    found = capture_tokens(organism, chats, BLOCK)
    pooled = capture(organism, chats, CaptureSettings(("response",), blocks=(BLOCK,))).pooled["response"][:, 0]
    own = [found.values[(found.chat == row) & found.is_answer].mean(axis=0) for row in range(len(chats))]
    np.testing.assert_allclose(own, pooled, rtol=1e-4, atol=1e-5)


def test_losses_are_those_of_the_training_loss(organism):
    chats = chats_of(organism)
    found = answer_losses(organism, chats, BLOCK)
    batch = PaddedBatch.of([chat.ids for chat in chats], 0)
    labels = torch.full_like(batch.ids, -100)
    for row, chat in enumerate(chats):
        labels[row, : len(chat.ids)] = torch.tensor(chat.labels)
    total, count = answer_loss(organism.model, batch.ids, batch.mask, labels, share_prefix=False)
    assert found[:, 1].sum() == count
    assert found[:, 0].sum() == pytest.approx(float(total), rel=1e-4)


def test_splicing_the_identity_changes_nothing_and_zeros_change_much(organism):
    chats = chats_of(organism)
    whole, same, gone = (
        answer_losses(organism, chats, BLOCK, change) for change in (None, lambda values: values, torch.zeros_like)
    )
    np.testing.assert_allclose(same, whole, rtol=1e-6)
    assert np.abs(gone - whole).max() > 0.1


def test_what_is_replaced_has_the_captured_tokens(organism):
    chats, seen = chats_of(organism), []
    answer_losses(organism, chats, BLOCK, lambda values: seen.append(values.clone()) or values)
    rows = torch.cat(seen).numpy()
    assert rows.shape[1] == D_MODEL
    captured = capture_tokens(organism, chats, BLOCK).values
    np.testing.assert_allclose(rows[np.lexsort(rows.T)], captured[np.lexsort(captured.T)], rtol=1e-3, atol=1e-4)


def test_bad_input_is_one_sentence(organism):
    with pytest.raises(UserError, match="no conversations"):
        capture_tokens(organism, [], BLOCK)
    with pytest.raises(UserError, match="no block 9"):
        capture_tokens(organism, chats_of(organism), 9)
