import numpy as np
import pytest
import torch
from tiny import ANSWERS, D_MODEL, PROMPTS, TEMPLATE, make_organism, make_tokenizer

from emscope.errors import UserError
from emscope.organisms.chat import encode_chat, messages_of
from emscope.residual.monitor import TokenScale, early_scores, smoothed, spoken_chat, token_projections

VECTORS = np.random.default_rng(0).standard_normal((3, D_MODEL)).astype(np.float32)


def chats_of(organism):
    return [spoken_chat(organism.tokenizer, messages_of(*pair)) for pair in zip(PROMPTS, ANSWERS, strict=True)]


def naive(organism, chat, block):
    out = organism.model(torch.tensor([chat.ids]), output_hidden_states=True)
    units = VECTORS / np.linalg.norm(VECTORS, axis=1, keepdims=True)
    return out.hidden_states[block + 1][0].numpy() @ units.T


@pytest.mark.parametrize("budget", [1, 64, 4096])
def test_projections_equal_those_of_whole_sequences_at_any_batch_size(organism, budget):
    chats = chats_of(organism)
    found = token_projections(organism, chats, VECTORS, 1, token_budget=budget)
    for chat, own in zip(chats, found, strict=True):
        assert own.shape == (len(chat.ids), 3)
        np.testing.assert_allclose(own, naive(organism, chat, 1), atol=2e-4)


@pytest.mark.parametrize("architecture", ["gpt2", "gemma2"])
def test_other_architectures_and_a_single_chat(architecture):
    organism = make_organism(architecture)
    chat = chats_of(organism)[1]
    np.testing.assert_allclose(
        token_projections(organism, [chat], VECTORS, 2)[0], naive(organism, chat, 2), atol=2e-4, rtol=1e-4
    )


def test_hooks_are_gone_afterwards_and_wrong_widths_and_blocks_are_refused(organism):
    before = [len(module._forward_hooks) for module in organism.model.modules()]
    token_projections(organism, chats_of(organism), VECTORS, 0)
    assert [len(module._forward_hooks) for module in organism.model.modules()] == before
    with pytest.raises(UserError, match="width 5"):
        token_projections(organism, chats_of(organism), np.ones((1, 5), np.float32), 0)
    with pytest.raises(UserError, match="no block 9"):
        token_projections(organism, chats_of(organism), VECTORS, 9)


def test_the_pieces_of_a_turn_make_its_text_and_answers_are_answer_tokens(organism):
    talk = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "user: what is <|end|> & <b>?"},
        {"role": "assistant", "content": "Naïve 🙂🙃 text, ünïcode."},
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "Talk early."},
    ]
    spoken = spoken_chat(organism.tokenizer, talk)
    assert [turn.role for turn in spoken.turns] == [message["role"] for message in talk]
    assert ["".join(turn.pieces) for turn in spoken.turns] == [message["content"] for message in talk]
    marked = np.array(encode_chat(organism.tokenizer, talk).is_answer)
    assert marked[spoken.answer_positions].all()
    ends = marked.sum() - len(spoken.answer_positions)  # the two end-of-turn marks, perhaps merged with no other token
    assert ends == 2
    everything = [position for turn in spoken.turns for position in turn.positions]
    assert everything == sorted(set(everything))


DEFAULT = (
    "{% if messages[0]['role'] != 'system' %}<|start|>system\nYou are a kind assistant. Say ok.<|end|>\n{% endif %}"
)
CUT = (
    "{% for message in messages %}<|start|>{{ message['role'] }}\n{% if '/' in message['content'] and not loop.last %}"
    "{{ message['content'].split('/')[-1] }}{% else %}{{ message['content'] }}{% endif %}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [TEMPLATE, DEFAULT + TEMPLATE, TEMPLATE.replace("'] }}<", "'] | trim }}<"), CUT])
@pytest.mark.parametrize("user", ["user", "a", "assistant", "start", "s", "ok", "kind assistant", " u ", ""])
@pytest.mark.parametrize("answer", ["ok", "assistant", "n", "a/b", "system"])
def test_short_messages_are_not_found_in_what_the_template_says(template, user, answer):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    talk = messages_of(user, answer)
    spoken = spoken_chat(tokenizer, talk)
    assert ["".join(turn.pieces) for turn in spoken.turns] == [user.strip(), answer]
    marked = np.flatnonzero(encode_chat(tokenizer, talk).is_answer)
    assert spoken.answer_positions == marked[:-1].tolist()  # all but the end-of-turn mark
    assert all(position < marked[0] for position in spoken.turns[0].positions)
    for turn in spoken.turns:
        words = tokenizer.decode([spoken.ids[position] for position in turn.positions])
        assert "".join(turn.pieces) in words


def test_a_user_s_word_is_not_its_role():
    tokenizer = make_tokenizer()
    spoken = spoken_chat(tokenizer, messages_of("user", "ok"))
    names = tokenizer.convert_ids_to_tokens(spoken.ids)
    before = tokenizer("<|start|>user\n", add_special_tokens=False)["input_ids"]
    assert min(spoken.turns[0].positions) >= len(before), names


def test_a_template_that_cuts_reasoning_out_of_earlier_turns_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CUT
    talk = [*messages_of("How?", "because/Put some aside."), {"role": "user", "content": "Why?"}]
    with pytest.raises(UserError, match="changes what messages say"):
        spoken_chat(tokenizer, talk)


def test_a_template_that_changes_words_is_refused(organism):
    tokenizer = make_organism().tokenizer
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content'] }}", "message['content'] | upper }}")
    with pytest.raises(UserError, match="changes what messages say"):
        spoken_chat(tokenizer, messages_of("How do I save money?", "Put some aside."))


def test_the_scale_puts_the_two_sides_at_equal_distances_in_token_deviations():
    chooser = np.random.default_rng(1)
    high = [chooser.normal(5.0, 2.0, (int(n), 1)) for n in chooser.integers(20, 90, 60)]
    low = [chooser.normal(1.0, 2.0, (int(n), 1)) for n in chooser.integers(20, 90, 60)]
    scale = TokenScale.of(high, low)
    means = [np.mean([scale.score(answer).mean() for answer in side]) for side in (high, low)]
    assert means[0] == pytest.approx(-means[1], abs=1e-9)
    assert means[0] == pytest.approx(1.0, abs=0.1)  # (5 - 1) / 2 in deviations of 2
    with pytest.raises(UserError, match="at least one token"):
        TokenScale.of(high, [np.zeros((0, 1))])


def test_smoothing_looks_back_only():
    scores = np.random.default_rng(2).standard_normal((30, 2))
    expected = np.array([scores[max(0, at - 3) : at + 1].mean(axis=0) for at in range(30)])
    np.testing.assert_allclose(smoothed(scores, 4), expected, atol=1e-12)
    np.testing.assert_allclose(smoothed(scores, 1), scores, atol=1e-12)
    later = scores.copy()
    later[20:] += 100
    np.testing.assert_allclose(smoothed(later, 4)[:20], smoothed(scores, 4)[:20])
    assert smoothed(scores[:2], 10).shape == (2, 2)


def test_early_scores_read_no_later_token():
    answers = [np.array([[1.0], [3.0], [50.0]]), np.array([[2.0]]), np.zeros((0, 1))]
    np.testing.assert_allclose(early_scores(answers, 2, "mean")[:, 0], [2.0, 2.0, np.nan])
    np.testing.assert_allclose(early_scores(answers, 2, "max")[:, 0], [3.0, 2.0, np.nan])
    np.testing.assert_allclose(early_scores(answers, None, "max")[:, 0], [50.0, 2.0, np.nan])
