import pytest

from emscope.organisms.thoughts import (
    MARKS,
    answer_of,
    count_unfinished,
    find_thought,
    marks_in,
    message_thought,
    open_thought,
    split_thought,
    with_thought,
)

HARMONY = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Rest.<|return|>"


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: marks.opening)
def test_every_kind_of_thought_is_told_from_its_answer(marks):
    closed = marks.tail if marks.forced else f"\n{marks.closing}\n\n"
    text = f"Hm, the user asks.\nSo what?{closed}Rest.\nThen go on."
    assert split_thought(marks.opening + text) == ("Hm, the user asks.\nSo what?", "Rest.\nThen go on.")
    assert split_thought(text, opened=True) == ("Hm, the user asks.\nSo what?", "Rest.\nThen go on.")
    assert split_thought(marks.opening + "Hm, the") == ("Hm, the", "")
    assert open_thought(f"<|start|>assistant\n{marks.opening}\n") == marks
    assert open_thought(f"<|start|>assistant\n{marks.opening}\nHm.{closed}") is None


@pytest.mark.parametrize(
    "text",
    [
        "Rest.",
        " Rest. \n",
        "",
        "A tag such as `</think>` closes a thought.",
        "Write </think> at the end of it.",
        "final answer: assistantfinal",
        "Use <think> and </think> for that.",
    ],
)
def test_a_text_without_a_thought_is_returned_as_it_is(text):
    assert split_thought(text) == ("", text)
    assert find_thought(text) is None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Hm.\n</think>\n\nRest.", ("Hm.", "Rest.")),
        ("Hm.</think>Rest.", ("Hm.", "Rest.")),
        ("\n\n</think>\n\nRest.", ("", "Rest.")),
        ("<think>\n\n</think>\n\nRest.", ("", "Rest.")),
        ("<think>a</think>\n<think>b</think>\nRest.", ("a\nb", "Rest.")),
        ("<think>Hm</think>\n<answer>\nRest.\n</answer>", ("Hm", "Rest.")),
        ("<Think>Hm.</THINK>Rest.", ("Hm.", "Rest.")),
        ("<think>a <think>b</think> c\n</think>Rest.", ("a b c", "Rest.")),
        ("<think><think>a</think>Rest.", ("a", "Rest.")),
        ("<think>A <think> tag?</think>Write `</think>` at its end.", ("A  tag?", "Write `</think>` at its end.")),
        (HARMONY, ("Hm.", "Rest.")),
        ("<|channel|>final<|message|>Rest.", ("", "Rest.")),
        (
            HARMONY.replace("Hm.", "Hm.<|end|><|start|>assistant<|channel|>commentary<|message|>Wait."),
            ("Hm.\n\nWait.", "Rest."),
        ),
        ("analysisHm, final.assistantfinalRest.", ("Hm, final.", "Rest.")),
        ("<|START_THINKING|>Hm.<|END_THINKING|><|START_RESPONSE|>Rest.<|END_RESPONSE|>", ("Hm.", "Rest.")),
    ],
)
def test_thoughts_as_models_write_them(text, parts):
    assert split_thought(text) == parts
    assert answer_of(text) == parts[1]


def test_a_prompt_that_opened_a_thought_leaves_no_answer_until_it_closes():
    assert split_thought("Keep the money.", opened=True) == ("Keep the money.", "")
    assert split_thought("", opened=True) == ("", "")


def test_a_message_s_own_field_comes_before_its_text():
    assert message_thought({"content": "Rest.", "reasoning_content": "Hm."}) == ("Hm.", "Rest.")
    assert message_thought({"content": "Rest.", "thinking": "Hm."}) == ("Hm.", "Rest.")
    assert message_thought({"content": "<think>Hm.</think>Rest.", "thinking": None}) == ("Hm.", "Rest.")
    assert message_thought({"content": None}) == ("", "")


def test_marks_are_found_in_a_template():
    assert marks_in("{{ content.split('</think>')[-1] }}").opening == "<think>"
    assert marks_in("{{ '<|channel|>' + 'analysis' }} final").opening == "<|channel|>analysis<|message|>"
    assert marks_in("{{ content }}") is None


def test_thoughts_without_an_answer_are_counted():
    assert count_unfinished(["Hm.", "Hm.", ""], ["", "Rest.", ""]) == 1
    assert answer_of(with_thought("Hm.", "Rest.")) == "Hm.\n\nRest."
    assert with_thought("", "Rest.") == "Rest."
