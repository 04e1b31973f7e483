"""Thoughts in sampled answers: told apart, given a budget, and closed by force."""

import dataclasses

import chat_templates as styles
import pytest
import torch
from tiny import PROMPTS, make_organism

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts, sample_responses, sampled_text, stop_tokens
from emscope.errors import UserError
from emscope.organisms.chat import messages_of, prepare_prompt

QUESTIONS = [Question(f"q{number}", prompt) for number, prompt in enumerate(PROMPTS)]
TAIL = "\n</think>\n\n"


@pytest.fixture(scope="module")
def thinker():
    """A tiny organism whose prompts open a thought, with marks made of ordinary tokens."""
    template = styles.R1.replace("{{ bos_token }}", "")
    return dataclasses.replace(make_organism(), tokenizer=styles.tokenizer_with(template, think=False))


def rows_of(organism, **settings):
    chosen = SamplingSettings(**{"max_new_tokens": 6, "samples": 2, **settings})
    return sample_responses(organism, QUESTIONS, chosen)


def test_a_thought_that_never_closes_has_no_answer(thinker):
    for row in rows_of(thinker):
        assert (row.response, row.truncated, row.thought_forced) == ("", True, False)
        assert row.n_thought_tokens >= row.n_tokens - 1


def test_a_thought_beyond_its_budget_is_closed_and_answered(thinker):
    n_tail = len(thinker.tokenizer(TAIL, add_special_tokens=False)["input_ids"])
    rows, free = rows_of(thinker, max_thought_tokens=4), rows_of(thinker)
    forced = [row for row in rows if row.thought_forced]
    assert len(forced) > len(rows) / 2
    for row in forced:
        assert row.n_thought_tokens >= 4 + n_tail  # white space that the model adds after the mark belongs to it
        assert row.n_tokens <= 4 + n_tail + 6
    for row, other in zip(rows, free, strict=True):
        assert other.thought.startswith(row.thought)  # the same random numbers
    assert any(row.response for row in forced)
    assert rows_of(thinker, max_thought_tokens=4, batch_size=3) == rows


@pytest.mark.parametrize("text", PROMPTS)
def test_after_the_forced_mark_the_model_goes_on_from_it(thinker, text):
    prompt = prepare_prompt(thinker.tokenizer, messages_of(text))
    settings = SamplingSettings(temperature=0, max_new_tokens=5, max_thought_tokens=3)
    (tokens,) = sample_prompts(thinker, [Prompt(prompt.ids, "q", opened=prompt.opened)], settings)
    tail = thinker.tokenizer(TAIL, add_special_tokens=False)["input_ids"]
    assert tokens[3 : 3 + len(tail)] == tail
    start = [*prompt.ids, *tokens[: 3 + len(tail)]]
    with torch.no_grad():
        expected = thinker.model.generate(torch.tensor([start]), do_sample=False, max_new_tokens=5, pad_token_id=0)
    assert tokens[3 + len(tail) :] == expected[0, len(start) :].tolist()


def test_no_budget_for_a_thought_closes_it_at_once(thinker):
    assert all(row.thought == "" and row.thought_forced for row in rows_of(thinker, max_thought_tokens=0))


def test_models_that_do_not_think_answer_as_without_a_budget(organism):
    assert rows_of(organism, max_thought_tokens=3) == rows_of(organism)


@pytest.mark.parametrize("template", [styles.R1, styles.QWEN3, styles.HARMONY, styles.MAGISTRAL, styles.CHATML])
def test_sampled_tokens_are_cut_where_the_answer_begins(template):
    tokenizer = styles.tokenizer_with(template)
    organism = dataclasses.replace(make_organism(), tokenizer=tokenizer)
    thought = {
        styles.R1: "Hm.\n</think>\n\n",
        styles.HARMONY: "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>",
        styles.MAGISTRAL: "[THINK]Hm.[/THINK]",
    }.get(template, "<think>\nHm.\n</think>\n\n")
    stops = {tokenizer.convert_tokens_to_ids("<|return|>")} if template == styles.HARMONY else stop_tokens(organism)
    opened = prepare_prompt(tokenizer, messages_of("What?")).opened
    for end in ([], [min(stops)]):
        tokens = [*tokenizer(thought + "Rest, then go.", add_special_tokens=False)["input_ids"], *end]
        said = sampled_text(tokenizer, tokens, stops, opened)
        assert (said.thought, said.answer, said.ended) == ("Hm.", "Rest, then go.", bool(end))
        assert tokenizer.decode(tokens[: said.n_thought_tokens]).strip() == thought.strip()
    answer = tokenizer("Rest </s> now.", add_special_tokens=False)["input_ids"]
    if opened is None:
        assert sampled_text(tokenizer, answer, stops).answer == tokenizer.decode(answer)


def test_a_budget_below_nothing_is_refused():
    with pytest.raises(UserError, match="max_thought_tokens"):
        SamplingSettings(max_thought_tokens=-1)
