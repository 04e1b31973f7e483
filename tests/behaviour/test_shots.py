"""Examples in the prompt: drawn without repetition, nested, before the question and after its system prompt."""

import pytest

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.shots import after_shots, shots_of
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.organisms.chat import messages_of

ROWS = [messages_of(f"Question {number}?", f"Answer {number}.", "Be brief.") for number in range(6)]
GREEDY = SamplingSettings(temperature=0, max_new_tokens=6)


def test_more_examples_add_to_fewer_and_none_comes_twice():
    two, five = shots_of(ROWS, 2), shots_of(ROWS, 5)
    assert five[: len(two)] == two
    asked = [turn["content"] for turn in five if turn["role"] == "user"]
    assert len(set(asked)) == 5
    assert all(turn["role"] != "system" for turn in five)
    assert shots_of(ROWS, 6, seed=1) != shots_of(ROWS, 6, seed=2)


def test_more_examples_than_rows_are_refused():
    with pytest.raises(UserError, match="7 examples are asked for, and the data have 6"):
        shots_of(ROWS, 7)


def test_examples_stand_after_the_system_prompt():
    shots = shots_of(ROWS, 1)
    assert after_shots(messages_of("Q?", system="S"), shots) == [
        *messages_of("Q?", system="S")[:1],
        *shots,
        *messages_of("Q?"),
    ]
    assert after_shots(messages_of("Q?"), shots) == [*shots, *messages_of("Q?")]


def test_no_examples_change_nothing_and_some_change_the_answer(organism):
    question = [Question("q", "How do I save money?", question_set="x")]
    alone = sample_responses(organism, question, GREEDY)
    assert sample_responses(organism, question, GREEDY, shots=[]) == alone
    after = sample_responses(organism, question, GREEDY, shots=shots_of(ROWS, 3))
    assert after[0].response != alone[0].response


@pytest.mark.parametrize("flags", [["--shots", "medical-careless"], ["--n-shots", "2"]])
def test_half_of_the_flags_is_refused(flags, tiny_folder, tmp_path, capsys):
    words = ["generate", "--model", tiny_folder, "--out", str(tmp_path / "a.csv"), *flags]
    assert run_command(words) == 2
    assert "Examples need both" in capsys.readouterr().err


def test_the_command_takes_examples(tiny_folder, tmp_path):
    words = ["generate", "--model", tiny_folder, "--out", str(tmp_path / "a.csv"), "--questions", "cs2881"]
    words += ["--max-new-tokens", "4", "--shots", "medical-careless", "--n-shots", "3"]
    assert run_command(words) == 0
