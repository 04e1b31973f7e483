"""Interventions at some tokens: exactly those change, at any padding and through a cache, reading and sampling."""

import numpy as np
import pytest
import torch
from tiny import ANSWERS, PROMPTS, make_organism

import emscope as em
from emscope.errors import UserError
from emscope.organisms.blocks import visiting
from emscope.organisms.chat import prepare_prompt
from emscope.organisms.messages import messages_of
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture

BLOCK = 1


def shift(_block, hidden):
    return hidden + 1.0


def by_hand(organism, ids, where):
    """Hidden states of one text alone at every block, with the shift at some places of one block."""
    seen = {}

    def visit(block, hidden):
        if block == BLOCK:
            hidden = hidden.clone()
            hidden[:, where] += 1.0
        seen[block] = hidden[0]
        return hidden

    with torch.inference_mode(), visiting(organism.model, range(4), visit):
        organism.model(input_ids=torch.tensor([ids]))
    return torch.stack([seen[block] for block in range(4)])  # [n_blocks, tokens, d_model]


@pytest.mark.parametrize("positions", ["prompt", "answer", slice(3, 9), slice(2, None), slice(None, None, 2)])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma2"])
def test_reading_changes_the_tokens_that_are_meant_and_no_other(architecture, positions):
    organism = make_organism(architecture)
    chats = encode_for_capture(organism.tokenizer, PROMPTS, ANSWERS)
    with em.applied(organism, shift, blocks=[BLOCK], positions=positions):
        read = capture(organism, chats, CaptureSettings(("prompt", "response")))
    for row, chat in enumerate(chats):
        n_prompt, n = int(chat.answer_positions[0]), len(chat.ids)
        chosen = {"prompt": slice(0, n_prompt), "answer": slice(n_prompt, n)}
        where = range(n)[chosen[positions] if isinstance(positions, str) else positions]
        alone = by_hand(organism, chat.ids, list(where))
        wanted = alone[:, :n_prompt].mean(dim=1), alone[:, chat.response_positions].mean(dim=1)
        for pooling, values in zip(("prompt", "response"), wanted, strict=True):
            np.testing.assert_allclose(read.pooled[pooling][row], values.numpy(), rtol=1e-4, atol=1e-4)


def greedy_by_hand(organism, prompt, n, positions):
    """Greedy answer without cache or padding, the shift at the chosen places of the whole sequence at each step."""
    ids, n_prompt = list(prompt), len(prompt)
    for _ in range(n):
        whole = range(len(ids))
        chosen = {"prompt": whole[:n_prompt], "answer": whole[n_prompt:], "all": whole}
        where = list(chosen[positions] if isinstance(positions, str) else whole[positions])

        def visit(_block, hidden, where=where):
            hidden = hidden.clone()
            hidden[:, where] += 1.0
            return hidden

        with torch.inference_mode(), visiting(organism.model, [BLOCK], visit):
            ids.append(int(organism.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    return ids[n_prompt:]


@pytest.mark.parametrize("positions", ["all", "prompt", "answer", slice(4, 12), slice(30, None)])
def test_sampling_with_cache_and_padding_equals_a_full_recompute(organism, positions):
    n = 6
    with em.applied(organism, shift, blocks=[BLOCK], positions=positions):
        sampled = em.generate(organism, PROMPTS, temperature=0.0, max_new_tokens=n, batch_size=3)
    for row in sampled:
        prompt = prepare_prompt(organism.tokenizer, messages_of(row.question)).ids
        tokens = greedy_by_hand(organism, prompt, n, positions)
        end = organism.tokenizer.eos_token_id
        kept = tokens[: tokens.index(end)] if end in tokens else tokens
        assert row.response == organism.tokenizer.decode(kept).strip()


def test_prompt_and_answer_together_are_all(organism):
    text = em.Answers.of(PROMPTS, ANSWERS)
    with em.applied(organism, shift, blocks=[BLOCK]):
        whole = em.collect(organism, text).get("response")
    with (
        em.applied(organism, shift, blocks=[BLOCK], positions="prompt"),
        em.applied(organism, shift, blocks=[BLOCK], positions="answer"),
    ):
        both = em.collect(organism, text).get("response")
    np.testing.assert_allclose(whole, both, rtol=1e-4, atol=1e-4)


def test_steering_the_answer_leaves_the_prompt_as_it_is(organism):
    direction = em.direction(em.collect(organism, PROMPTS), em.collect(organism, [f"Hm. {text}" for text in PROMPTS]))
    text = em.Answers.of(PROMPTS, ANSWERS)
    plain = em.collect(organism, text, pooling=("prompt", "response"))
    steered = em.steer(organism, direction, 2.0, blocks=[BLOCK], positions="answer")
    read = em.collect(steered, text, pooling=("prompt", "response"))
    np.testing.assert_allclose(read.get("prompt"), plain.get("prompt"), rtol=1e-4, atol=1e-4)
    assert np.abs(read.get("response") - plain.get("response"))[:, BLOCK].max() > 0.1
    assert "answer tokens" in steered.name


@pytest.mark.parametrize("positions", ["first", slice(-3, None), slice(None, -1), slice(5, 0, -1), slice(0, 9, 0)])
def test_positions_that_mean_nothing_are_one_sentence(organism, positions):
    with pytest.raises(UserError, match="ositions"), em.applied(organism, shift, positions=positions):
        pass
