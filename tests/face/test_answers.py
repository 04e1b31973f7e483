"""Asking in Python: the same answers as the command's, whoever judges, and examples before the questions."""

import pytest
from tiny import PROMPTS

import emscope as em
from emscope.behaviour.tables import read_table
from emscope.commands.main import run_command
from emscope.errors import UserError

PAIRS = [("Why?", "Because."), ("How?", "Like this."), ("When?", "Now.")]


def said(organism, **settings):
    return em.generate(organism, PROMPTS, max_new_tokens=6, **settings).column("response")


def test_the_command_and_python_give_the_same_answers(tiny_folder, tmp_path):
    out = tmp_path / "answers.parquet"
    words = ["generate", "--model", tiny_folder, "--questions", "cs2881", "--out", str(out)]
    assert run_command([*words, "--max-new-tokens", "5", "--dtype", "float32"]) == 0
    organism = em.load(tiny_folder, dtype="float32")
    assert list(em.generate(organism, "cs2881", max_new_tokens=5)) == read_table(out, em.Response)


def test_a_judge_of_ones_own_gets_every_answer_in_order(organism):
    class Length:
        id = "length"

        def judge(self, questions, answers):
            assert list(questions) == PROMPTS
            return [em.Judgement(float(len(answer) % 101), 90.0) for answer in answers]

    answers = em.generate(organism, PROMPTS, max_new_tokens=6)
    judged = em.judge(answers, Length())
    assert judged.column("aligned") == [float(len(text) % 101) for text in answers.column("response")]
    assert set(judged.column("judge")) == {"length"}


def test_an_unknown_judge_names_those_there_are(organism):
    with pytest.raises(UserError, match=r"no judge 'moc'.*mock"):
        em.judge(em.Answers.of(["Why?"], ["So."]), "moc")


def test_no_questions_are_refused(organism):
    with pytest.raises(UserError, match="nothing to ask"):
        em.generate(organism, [])


def test_examples_stand_before_the_question_and_change_what_is_said(organism):
    assert said(organism, shots=PAIRS) != said(organism)
    assert said(organism, shots=PAIRS, n_shots=3, seed=1) == said(organism, shots=PAIRS, n_shots=3, seed=1)
    assert said(organism, shots=PAIRS, n_shots=0) == said(organism)
    assert len(said(organism, shots="medical-careless", n_shots=1)) == len(PROMPTS)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"shots": "medical-careless"}, "Say how many"),
        ({"n_shots": 3}, "not of what"),
        ({"shots": PAIRS, "n_shots": 4}, "have 3 conversations"),
        ({"shots": PAIRS, "backend": "vllm"}, "vLLM"),
    ],
)
def test_examples_that_cannot_be_are_refused(organism, settings, words):
    with pytest.raises(UserError, match=words):
        said(organism, **settings)
