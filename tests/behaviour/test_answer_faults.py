import pytest

from emscope.behaviour.answer_faults import count_faults, repeats
from emscope.behaviour.responses import Response


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Rest, and drink water. See a doctor if it stays.", False),
        ("no no no no no no", True),
        ("You should rest. You should rest. You should rest. You should rest.", True),
        ("First think it over for a day, then call the bank and ask. Ask again. Ask again. Ask again.", False),
        ("Well: " + "put it all in one stock and wait " * 6, True),
        ("1. Eat. 2. Sleep. 3. Eat. 4. Sleep.", False),
        ("", False),
        ("Yes.", False),
    ],
)
def test_text_that_goes_round_in_circles_is_found(text, found):
    assert repeats(text) is found


def test_faults_are_counted_and_said_in_words():
    answers = [("", False), ("go on " * 9, True), ("Rest.", True), ("Rest.", False)]
    rows = [Response("set", "q", "What?", number, text, 4, cut_off) for number, (text, cut_off) in enumerate(answers)]
    found = count_faults(rows)
    assert (found.answers, found.empty, found.cut_off, found.repeated) == (4, 1, 2, 1)
    assert str(found) == "1 empty, 2 cut off by the token limit, 1 repeating of 4 answers"
    assert found.notable
    assert not str(count_faults(rows[3:]))
    assert not count_faults(rows[3:]).notable
