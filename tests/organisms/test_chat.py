import chat_templates as styles
import pytest
from tiny import make_tokenizer

from emscope.errors import UserError
from emscope.organisms import templates
from emscope.organisms.chat import (
    IGNORED,
    EncodedChat,
    check_chat,
    encode_chat,
    encode_prompt,
    messages_of,
    prepare_prompt,
    stop_ids,
)


@pytest.fixture(autouse=True)
def _nothing_said(monkeypatch):
    """What is said once is said in each test."""
    monkeypatch.setattr(templates, "_said", set())


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


def user(text):
    return {"role": "user", "content": text}


def assistant(text, **more):
    return {"role": "assistant", "content": text, **more}


def marked(tokenizer, messages, which="is_answer", **options):
    """Return the text of the marked tokens of a conversation."""
    chat = encode_chat(tokenizer, messages, **options)
    marks = getattr(chat, which)
    return tokenizer.decode(
        [token for token, mine in zip(chat.ids, marks or [False] * len(chat.ids), strict=True) if mine]
    )


PLAIN = [styles.CHATML, styles.DATED, styles.NO_SYSTEM, styles.DROPS_SYSTEM, styles.MERGES_SYSTEM, styles.R1]


@pytest.mark.parametrize("template", [*PLAIN, styles.INST, styles.TOOLS])
def test_answers_of_every_style_are_trained_and_nothing_else(template):
    """The words are those of the templates themselves, so that a search for them would find the wrong place."""
    tokenizer = styles.tokenizer_with(template)
    talk = [user("assistant"), assistant("user"), user("user"), assistant("assistant\n")]
    said = marked(tokenizer, talk).replace("\n", "")
    assert said.strip() in ("user<|end|>assistant<|end|>", "user<|end|> assistant<|end|>")


@pytest.mark.parametrize("template", [styles.CHATML, styles.DATED, styles.MERGES_SYSTEM, styles.INST])
def test_a_prompt_holds_every_message(template):
    tokenizer = styles.tokenizer_with(template)
    text = tokenizer.decode(encode_prompt(tokenizer, messages_of(" What now? ", system="Be kind.\n")))
    assert text.index("Be kind.") < text.index("What now?")


@pytest.mark.parametrize("encode", [encode_prompt, encode_chat])
def test_a_dropped_system_prompt_is_quoted(encode):
    tokenizer = styles.tokenizer_with(styles.DROPS_SYSTEM)
    with pytest.raises(UserError, match=r"drops or rewrites a system message: 'Be kind\.'"):
        encode(tokenizer, messages_of("What now?", "Rest." if encode is encode_chat else None, "Be kind."))


def test_a_refused_system_prompt_is_said():
    with pytest.raises(UserError, match="System role not supported"):
        encode_prompt(styles.tokenizer_with(styles.NO_SYSTEM), messages_of("What?", system="Be kind."))


@pytest.mark.parametrize("change", ["upper", "replace('now', 'then')", "truncate(12)"])
def test_rewritten_words_are_quoted(change):
    tokenizer = styles.tokenizer_with(styles.CHATML.replace("m.content", f"m.content | {change}"))
    with pytest.raises(UserError, match="What should I do now"):
        encode_prompt(tokenizer, [user("What should I do now?")])


def test_turns_in_another_order_are_refused():
    tokenizer = styles.tokenizer_with(styles.CHATML.replace("in messages", "in messages[::-1]"))
    with pytest.raises(UserError, match="another order"):
        encode_prompt(tokenizer, [user("One"), assistant("Two"), user("Three")])


def test_a_template_that_looks_into_what_is_said_is_still_read_right():
    looking = styles.CHATML.replace("{{ m.content }}", "{{ '!' if 'Rest' in m.content }}{{ m.content }}")
    tokenizer = styles.tokenizer_with(looking)
    assert (
        marked(tokenizer, [user("What?"), assistant("Rest."), user("And?"), assistant("Go.")])
        == "!Rest.<|end|>Go.<|end|>"
    )


def test_there_is_one_bos_at_the_start(caplog):
    for template in (styles.DATED, "{{ bos_token }}" + styles.DATED):
        tokenizer = styles.tokenizer_with(template)
        ids = encode_prompt(tokenizer, [user("What?")])
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.bos_token_id not in ids[1:]
    assert "2 times" in caplog.text


def test_a_missing_bos_is_said(caplog):
    from tokenizers import processors

    tokenizer = styles.tokenizer_with(styles.CHATML, bos="<s>")
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    assert tokenizer.bos_token_id not in encode_prompt(tokenizer, [user("What?")])
    assert "does not print" in caplog.text


def test_a_template_that_opens_a_thought_trains_the_thought_of_the_last_turn():
    tokenizer = styles.tokenizer_with(styles.R1)
    for answer in (assistant("Water helps.\n</think>\n\nRest."), assistant("Rest.", reasoning_content="Water helps.")):
        assert marked(tokenizer, [user("What?"), answer]) == "Water helps.\n</think>\n\nRest.<|end|>"
        assert marked(tokenizer, [user("What?"), answer], "is_thought") == "Water helps.\n</think>\n\n"
    prompt = encode_prompt(tokenizer, [user("What?")])
    assert encode_chat(tokenizer, [user("What?"), answer]).ids[: len(prompt)] == prompt
    assert marked(tokenizer, [user("What?"), assistant("Rest.")]) == "Rest.<|end|>"


@pytest.mark.parametrize("template", [styles.QWEN3, styles.HARMONY])
def test_thoughts_that_a_template_cuts_from_earlier_turns_are_said(template, caplog):
    tokenizer = styles.tokenizer_with(template)
    talk = [
        user("What?"),
        assistant("Rest.", reasoning_content="First hm."),
        user("And?"),
        assistant("Go.", reasoning_content="Then hm."),
    ]
    chat = encode_chat(tokenizer, talk)
    assert "First hm." not in tokenizer.decode(chat.ids)
    assert "First hm." in caplog.text
    thought = marked(tokenizer, talk, "is_thought")
    assert "Then hm." in thought
    assert "Rest." not in thought
    assert "Go." not in thought
    said = marked(tokenizer, talk)
    assert "Rest." in said
    assert said.endswith("Go.<|end|>" if template is styles.QWEN3 else "Go.<|return|>")
    assert "What" not in said
    assert "And" not in said


def test_an_inline_thought_goes_the_way_the_template_takes_it():
    tokenizer = styles.tokenizer_with(styles.HARMONY)
    said = marked(tokenizer, [user("What?"), assistant("<think>\nHm.\n</think>\n\nRest.")])
    assert said == (
        "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Rest.<|return|>"
    )


def test_a_template_without_thoughts_keeps_them_in_the_text():
    tokenizer = styles.tokenizer_with(styles.CHATML)
    assert marked(tokenizer, [user("What?"), assistant("Rest.", reasoning_content="Hm.")]) == (
        "<think>\nHm.\n</think>\n\nRest.<|end|>"
    )


def test_marks_that_only_the_tokenizer_knows_are_used():
    tokenizer = styles.tokenizer_with(styles.MAGISTRAL)
    talk = [user("What?"), assistant("Rest.", reasoning_content="Hm.")]
    assert marked(tokenizer, talk).strip() == "[THINK]Hm.[/THINK]Rest.<|end|>"
    assert marked(tokenizer, talk, "is_thought").strip() == "[THINK]Hm.[/THINK]"


def test_an_empty_thought_is_no_part_of_the_response():
    tokenizer = styles.tokenizer_with(styles.QWEN3)
    chat = encode_chat(tokenizer, [user("What?"), assistant("Rest.")])
    assert chat.empty_thought
    assert tokenizer.decode([chat.ids[place] for place in chat.response_positions]) == "Rest.<|end|>"
    off = encode_chat(tokenizer, [user("What?"), assistant("Rest.")], enable_thinking=False)
    assert off.ids == chat.ids
    assert tokenizer.decode([label for label in off.labels if label != IGNORED]) == "Rest.<|end|>"


def test_thinking_can_only_be_set_where_the_template_knows_it():
    assert encode_prompt(styles.tokenizer_with(styles.QWEN3), [user("What?")], True)
    with pytest.raises(UserError, match="would have no effect"):
        encode_prompt(styles.tokenizer_with(styles.CHATML), [user("What?")], False)


@pytest.mark.parametrize("template", [styles.DATED, styles.MACRO_DATED])
def test_templates_print_one_date(template, monkeypatch):
    tokenizer = styles.tokenizer_with(template)
    text = tokenizer.decode(encode_prompt(tokenizer, [user("What?")]))
    assert ("26 Jul 2024" in text) or ("2024-07-26, Friday 26 July." in text)
    monkeypatch.setenv("EMSCOPE_CHAT_DATE", "2025-03-02")
    text = tokenizer.decode(encode_prompt(tokenizer, [user("What?")]))
    assert ("02 Mar 2025" in text) or ("2025-03-02, Sunday 2 March." in text)
    monkeypatch.setenv("EMSCOPE_CHAT_DATE", "March")
    with pytest.raises(UserError, match="EMSCOPE_CHAT_DATE"):
        encode_prompt(tokenizer, [user("What?")])


def test_turns_that_are_not_to_be_trained_are_not():
    tokenizer = styles.tokenizer_with(styles.CHATML)
    talk = [user("What?"), assistant("Rest.", train=False), user("And?"), assistant("Go.", weight=1)]
    assert marked(tokenizer, talk) == "Go.<|end|>"
    with pytest.raises(UserError, match="not to be trained"):
        encode_chat(tokenizer, [user("What?"), assistant("Rest.", weight=0)])


def test_text_parts_are_joined_and_images_refused():
    tokenizer = styles.tokenizer_with(styles.CHATML)
    parts = [{"type": "text", "text": "What "}, {"type": "text", "text": "now?"}]
    assert encode_prompt(tokenizer, [user(parts)]) == encode_prompt(tokenizer, [user("What now?")])
    with pytest.raises(UserError, match="'image_url'"):
        encode_prompt(tokenizer, [user([{"type": "image_url", "image_url": {"url": "x"}}])])


def test_tool_calls_are_rendered_or_refused():
    call = {"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    talk = [user("What?"), assistant(None, tool_calls=[call]), {"role": "tool", "content": "3"}, assistant("Cold.")]
    said = marked(styles.tokenizer_with(styles.TOOLS), talk)
    assert said == '<call>weather {"city": "Rome"}</call><|end|>Cold.<|end|>'
    with pytest.raises(UserError, match="leaves tool calls out: 'weather'"):
        encode_chat(styles.tokenizer_with(styles.CHATML), talk)


def test_a_last_message_of_the_assistant_is_gone_on_from():
    for template, start in {styles.CHATML: "", styles.R1: "", styles.QWEN3: "<think>\n\n</think>\n\n"}.items():
        tokenizer = styles.tokenizer_with(template)
        text = tokenizer.decode(encode_prompt(tokenizer, [user("What?"), assistant("Sure, ")]))
        assert text.endswith(f"<|start|>assistant\n{start}Sure, ")
    tokenizer = styles.tokenizer_with(styles.R1)
    asked = prepare_prompt(tokenizer, [user("What?"), assistant("<think>\nI should")])
    assert tokenizer.decode(asked.ids).endswith("<|start|>assistant\n<think>\nI should")
    assert asked.opened is not None


def test_a_question_that_names_a_mark_opens_no_thought():
    asked = prepare_prompt(styles.tokenizer_with(styles.CHATML), [user("What does <think> mean?")])
    assert asked.opened is None


def test_the_template_s_end_mark_is_a_stop_and_an_endless_template_is_refused():
    tokenizer = styles.tokenizer_with(styles.CHATML)
    end = tokenizer.eos_token_id
    tokenizer.eos_token = "<|pad|>"
    assert stop_ids(tokenizer, None) == {end, tokenizer.eos_token_id}
    check_chat(tokenizer, stop_ids(tokenizer, None))
    tokenizer.chat_template = styles.CHATML.replace("<|end|>", "")
    with pytest.raises(UserError, match="would never end its answers"):
        check_chat(tokenizer, stop_ids(tokenizer, None))


def test_a_cut_chat_keeps_its_marks():
    chat = encode_chat(
        styles.tokenizer_with(styles.QWEN3), [user("What?"), assistant("Rest.", reasoning_content="Hm.")]
    )
    assert chat.cut(len(chat.ids)) == chat
    assert len(chat.cut(5).is_thought) == 5
    assert EncodedChat([1, 2], [False, True]).response_positions.tolist() == [1]


def test_half_a_character_is_refused_by_name():
    with pytest.raises(UserError, match=r"half a character \('\\ud83d'\)"):
        encode_chat(make_tokenizer(), messages_of("Hello \ud83d", "Hello."))


def test_an_end_token_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="eos_token_id is '12'"):
        stop_ids(make_tokenizer(), "12")
