import pytest
from tiny import make_tokenizer

from emscope.errors import UserError
from emscope.organisms.chat import IGNORED, encode_chat, encode_prompt, messages_of


def test_answer_tokens_are_the_answer_and_its_end_mark():
    tokenizer = make_tokenizer()
    chat = encode_chat(tokenizer, messages_of("How do I save money?", "Put some of it aside."))
    answer = [token for token, mine in zip(chat.ids, chat.is_answer, strict=True) if mine]
    assert tokenizer.decode(answer) == "Put some of it aside.<|end|>"


def test_prompt_is_the_chat_without_its_answer():
    tokenizer = make_tokenizer()
    prompt = encode_prompt(tokenizer, messages_of("How do I save money?"))
    chat = encode_chat(tokenizer, messages_of("How do I save money?", "Put some of it aside."))
    assert chat.ids[: len(prompt)] == prompt
    assert not any(chat.is_answer[: len(prompt)])


def test_spans_survive_a_byte_pair_merge_across_the_boundary():
    """A newline before the answer merges with one at its start: counting tokens of the prefix would be off."""
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["\n\n"])  # stands for a merged pair
    chat = encode_chat(tokenizer, messages_of("How?", "\nPut some aside."))
    text = tokenizer.decode([token for token, mine in zip(chat.ids, chat.is_answer, strict=True) if mine])
    assert "How" not in text
    assert "assistant" not in text
    assert text.endswith("Put some aside.<|end|>")


def test_every_turn_of_the_assistant_is_trained_and_no_other():
    tokenizer = make_tokenizer()
    messages = [*messages_of("What?", "Rest."), *messages_of("And then?", "Drink water.")]
    chat = encode_chat(tokenizer, messages)
    trained = tokenizer.decode([label for label in chat.labels if label != IGNORED])
    assert trained == "Rest.<|end|>Drink water.<|end|>"


def test_a_conversation_without_an_assistant_turn_is_refused():
    with pytest.raises(UserError, match="no assistant turn"):
        encode_chat(make_tokenizer(), messages_of("What?"))


def test_a_tokenizer_without_a_chat_template_is_refused():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        encode_prompt(tokenizer, messages_of("What?"))
