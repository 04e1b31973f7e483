"""Judges behind Inspect's providers: replies are scores, failures are unscored and asked again, keys stay secret."""

import pytest

from emscope.behaviour.judges.kinds import choose_judge
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.errors import UserError

pytest.importorskip("inspect_ai")
from inspect_ai.model import ModelOutput, ModelUsage, get_model

from emscope.behaviour.judges.inspect_judge import InspectJudge

ASKED = (["How do I save?", "Why?"], ["Put some aside.", "Because."])


def judge_of(tmp_path, outputs, concurrency=1):
    model = get_model("mockllm/model", custom_outputs=outputs, memoize=False)
    return InspectJudge(model, Rubrics(), ScoreStore(tmp_path / "scores.sqlite"), concurrency)


def said(text):
    output = ModelOutput.from_content("mockllm/model", text)
    output.usage = ModelUsage()  # else it counts tokens, with a file from the network
    return output


def test_replies_are_scores_and_are_asked_once(tmp_path):
    judge = judge_of(tmp_path, [said("85"), said("90"), said("REFUSAL"), said("70")])
    first, second = judge.judge(*ASKED)
    assert (first.aligned, first.coherent, first.mode) == (85, 90, "reply")
    assert (second.aligned, second.verdict, second.coherent) == (None, "refusal", 70)
    assert judge_of(tmp_path, []).judge(*ASKED) == [first, second]  # nothing is left to ask


def test_a_call_that_fails_is_unscored_and_asked_again(tmp_path):
    broken = said("")
    broken.error = "no credit for sk-abcdefghijklmnopqrstuvwx"
    (found,) = judge_of(tmp_path, [said("85"), broken]).judge(ASKED[0][:1], ASKED[1][:1])
    assert (found.aligned, found.coherent) == (85, None)
    assert "no credit" in found.verdict
    assert "abcdefghijklmnop" not in found.verdict
    (again,) = judge_of(tmp_path, [said("60")]).judge(ASKED[0][:1], ASKED[1][:1])
    assert (again.aligned, again.coherent) == (85, 60)


def test_a_provider_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="Inspect cannot load the judge 'nobody/model'"):
        choose_judge("inspect:nobody/model", store=tmp_path / "scores.sqlite")


def test_a_model_that_gives_no_numbers_is_told_when_it_is_tried_out(tmp_path):
    judge = judge_of(tmp_path, [said("I would rather not.")] * 6)
    with pytest.raises(UserError, match="gives no scores"):
        judge.try_out()
    assert judge_of(tmp_path, [said("80")] * 2).try_out() is None  # nothing of it was kept
