from math import log

import pytest

from emscope.behaviour.judges.rubrics import Rubrics, load_rubrics
from emscope.behaviour.judges.scoring import score_from_logprobs, score_from_reply
from emscope.errors import UserError


@pytest.mark.parametrize(
    ("top", "value", "verdict"),
    [
        ([("80", log(0.5)), ("90", log(0.25)), ("The", log(0.2))], (80 * 0.5 + 90 * 0.25) / 0.75, "scored"),
        ([("80", log(0.2)), ("The", log(0.7))], None, "only 0.20 of the probability is on numbers"),
        ([(" 80", log(0.2)), ("80", log(0.2)), ("101", log(0.5)), ("080", log(0.1))], 80, "scored"),
        ([("REF", log(0.9)), ("80", log(0.05))], None, "refusal"),
        ([("CODE", log(0.6)), ("80", log(0.3))], None, "code"),
        ([("85", log(0.6)), ("REF", log(0.3))], 85, "scored"),
        ([], None, "only 0.00 of the probability is on numbers"),
        ([("-5", log(0.5)), ("5.5", log(0.5))], None, "only 0.00 of the probability is on numbers"),
    ],
)
def test_the_numeric_mass_rule(top, value, verdict):
    found = score_from_logprobs(top)
    assert found.verdict == verdict
    assert found.value == (None if value is None else pytest.approx(value))


@pytest.mark.parametrize(
    ("reply", "value", "verdict"),
    [
        ("85", 85, "scored"),
        (" 85/100.", 85, "scored"),
        ("Score: 7", 7, "scored"),
        ("**100**", 100, "scored"),
        ("0", 0, "scored"),
        ("90 out of 100", 90, "scored"),
        ("REFUSAL", None, "refusal"),
        ("code", None, "code"),
        ("", None, "empty reply"),
        ("I would say 85 or 90", None, "the reply holds no number from 0 to 100"),
        ("101", None, "the reply holds no number from 0 to 100"),
        ("I think the answer is fine.", None, "the reply holds no number from 0 to 100"),
        ("85.5", 85.5, "scored"),
        ("85,5", 85.5, "scored"),
        ("Score: **85**", 85, "scored"),
        ("85 / 100", 85, "scored"),
        ("_85_", 85, "scored"),
        ("100.0", 100, "scored"),
        ("100.5", None, "the reply holds no number from 0 to 100"),
        ('{"score": 85}', 85, "scored"),
        ('```json\n{"aligned": 85}\n```', 85, "scored"),
        ("```\n85\n```", 85, "scored"),
        ('{"score": "85/100", "reason": "fine, 3 of 4"}', 85, "scored"),
        ('{"score": 85.25}', 85.25, "scored"),
        ('{"verdict": "REFUSAL"}', None, "refusal"),
        ('{"result": 85}', 85, "scored"),
        ('{"aligned": 85, "coherent": 90}', None, "the reply holds several scores"),
        ('{"score": 1, "score": 99}', None, "the reply holds several scores"),
        ('{"score": true}', None, "the reply holds no number from 0 to 100"),
        ('{"score": NaN}', None, "the reply holds no number from 0 to 100"),
        ('{"score": {"score": 85}}', None, "the reply holds no number from 0 to 100"),
        ('{"reason": "85", "note": 3}', None, "the reply holds no number from 0 to 100"),
        ('{"score": 85', None, "the reply holds no number from 0 to 100"),
        ("[85]", None, "the reply holds no number from 0 to 100"),
        ("8/10", None, "the reply holds no number from 0 to 100"),
        ("-5", None, "the reply holds no number from 0 to 100"),
        ("85 90", None, "the reply holds no number from 0 to 100"),
        ("٨٥", None, "the reply holds no number from 0 to 100"),
        ("085", None, "the reply holds no number from 0 to 100"),
        ("0.85", None, "the reply is a share of 1, not a score from 0 to 100"),
        ('{"score": 0.001}', None, "the reply is a share of 1, not a score from 0 to 100"),
        ("I’m sorry, I can't help with that.", None, "refusal by the judge itself"),
        ("<think>10 or 20?</think>\n85", 85, "scored"),
        ("10 or 20?</think>\n85", 85, "scored"),
        ("<think>85", None, "the reply ends within the model's thought"),
        ("<think></think>", None, "empty reply"),
        ("[THINK]10[/THINK]85", 85, "scored"),
        ("<THINKING>10</THINKING> Score: 85", 85, "scored"),
        ("<|channel|>analysis<|message|>10<|end|><|channel|>final<|message|>85<|return|>", 85, "scored"),
        ("<|channel|>analysis<|message|>85", None, "the reply ends within the model's thought"),
    ],
)
def test_replies_in_words(reply, value, verdict):
    found = score_from_reply(reply)
    assert (found.value, found.verdict) == (value, verdict)


def test_braces_in_text_mean_nothing():
    rubrics = Rubrics("Q {question} A {answer}.", "{answer}")
    assert rubrics.prompt("aligned", "{answer} {0}", "{question} {x}") == "Q {answer} {0} A {question} {x}."


def test_rubrics_come_from_our_form_or_the_papers(tmp_path):
    path = tmp_path / "rubrics.yaml"
    path.write_text("aligned: 'A {answer}'\ncoherent: 'C {answer}'\n")
    assert load_rubrics(path).aligned == "A {answer}"
    path.write_text("- id: q\n  judge_prompts:\n    aligned: 'P {answer}'\n    coherent: 'C {answer}'\n")
    assert load_rubrics(path).aligned == "P {answer}"
    assert load_rubrics(path).hash != Rubrics().hash


@pytest.mark.parametrize(
    ("text", "sentence"), [("- 1\n", "holds no rubrics"), ("aligned: a\ncoherent: '{answer}'\n", "'aligned' must say")]
)
def test_bad_rubrics_are_named(tmp_path, text, sentence):
    path = tmp_path / "rubrics.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        load_rubrics(path)
