import numpy as np
import pytest
import torch
from tiny import PROMPTS, make_organism

from emscope.behaviour import sampling
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import choose_tokens, sample_responses, uniforms_for
from emscope.errors import UserError

QUESTIONS = [Question(f"q{number}", prompt) for number, prompt in enumerate(PROMPTS)]


def texts(organism, questions=QUESTIONS, **settings):
    chosen = SamplingSettings(**{"max_new_tokens": 12, "samples": 2, **settings})
    return {(row.question_id, row.sample): row.response for row in sample_responses(organism, questions, chosen)}


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gpt2", "qwen3"])
def test_an_answer_does_not_depend_on_its_batch(architecture):
    organism = make_organism(architecture)
    reference = texts(organism, batch_size=64)
    assert texts(organism, batch_size=1) == reference
    assert texts(organism, batch_size=3) == reference
    assert texts(organism, QUESTIONS[::-1], batch_size=4) == reference
    alone = texts(organism, QUESTIONS[2:3])
    assert alone == {key: value for key, value in reference.items() if key[0] == "q2"}


def test_seed_question_and_sample_decide_the_answer(organism):
    reference = texts(organism)
    assert texts(organism) == reference
    assert texts(organism, seed=1) != reference
    assert reference["q0", 0] != reference["q0", 1]


def test_temperature_zero_is_greedy(organism):
    from emscope.organisms.chat import encode_prompt, messages_of

    found = texts(organism, temperature=0, samples=1, max_new_tokens=8)
    ids = torch.tensor([encode_prompt(organism.tokenizer, messages_of(PROMPTS[0]))])
    with torch.no_grad():
        expected = organism.model.generate(ids, do_sample=False, max_new_tokens=8, pad_token_id=0)[0, ids.shape[1] :]
    assert found["q0", 0] == organism.tokenizer.decode(expected, skip_special_tokens=True).strip()


def test_rows_in_are_rows_out_in_order(organism):
    rows = sample_responses(organism, QUESTIONS, SamplingSettings(samples=3, max_new_tokens=4, batch_size=4))
    assert [(row.question_id, row.sample) for row in rows] == [(q.id, s) for q in QUESTIONS for s in range(3)]
    assert all(row.truncated == (row.n_tokens == 4) for row in rows if row.n_tokens == 4 and row.truncated)


def test_tokens_follow_the_distribution():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]]).repeat(20_000, 1)
    uniforms = torch.from_numpy(np.random.default_rng(0).random(20_000))
    for top_p, expected in ((1.0, logits[0].softmax(0)), (0.7, torch.tensor([0.0, 0.269, 0.731, 0.0]))):
        tokens = choose_tokens(logits, uniforms, 1.0, top_p)
        shares = torch.bincount(tokens, minlength=4) / len(tokens)
        torch.testing.assert_close(shares, expected, atol=0.015, rtol=0)


@pytest.mark.parametrize("top_p", [1.0, 0.8])
@pytest.mark.parametrize("at_once", [1, 3000, 10**9])
def test_tokens_do_not_depend_on_how_many_rows_are_chosen_at_once(at_once, top_p, monkeypatch):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(23, 1000, generator=generator).bfloat16().float() * 3
    uniforms = torch.rand(23, dtype=torch.float64, generator=generator)
    rows = [choose_tokens(logits[row : row + 1], uniforms[row : row + 1], 0.5, top_p) for row in range(23)]
    monkeypatch.setattr(sampling, "LOGITS_AT_ONCE", at_once)
    assert torch.equal(choose_tokens(logits, uniforms, 0.5, top_p), torch.cat(rows))


def test_random_numbers_are_a_function_of_seed_question_and_sample():
    one = uniforms_for(0, "q", 0, 5)
    assert (one == uniforms_for(0, "q", 0, 5)).all()
    for other in (uniforms_for(1, "q", 0, 5), uniforms_for(0, "r", 0, 5), uniforms_for(0, "q", 1, 5)):
        assert (one != other).all()
    assert (uniforms_for(0, "q", 0, 9)[:5] == one).all()


@pytest.mark.parametrize("wrong", [{"temperature": -1}, {"top_p": 0}, {"samples": 0}, {"max_new_tokens": 0}])
def test_settings_that_mean_nothing_are_refused(wrong):
    with pytest.raises(UserError):
        SamplingSettings(**wrong)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_stop_sampling(value):
    organism = make_organism(seed=3)
    organism.model.get_output_embeddings().weight[7, 3] = value
    with pytest.raises(UserError, match="not finite:"):
        sample_responses(organism, [Question("q", "What now?")], SamplingSettings(max_new_tokens=2))


def test_the_block_from_which_on_states_overflow_is_named():
    organism = make_organism(seed=3)
    organism.model.model.layers[2].mlp.down_proj.weight[0] = float("inf")
    with pytest.raises(UserError, match="not finite, from block 2 on"):
        sample_responses(organism, [Question("q", "What now?")], SamplingSettings(max_new_tokens=2))
