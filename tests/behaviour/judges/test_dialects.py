"""Servers and models that refuse parts of a request, think before they answer, or answer in other forms."""

import logging
import time

import pytest
from behaviour.judges.faulty_server import ScriptedServer, chat, refuses

from emscope.behaviour.judges.openai_judge import OpenAIJudge, ServerSettings
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.errors import UserError

N = 12
QUESTIONS = [f"Question {number}?" for number in range(N)]
ANSWERS = [f"Answer {number}." for number in range(N)]
WHOLE = [{"token": "85", "logprob": -0.2}, {"token": "90", "logprob": -1.8}]


@pytest.fixture(autouse=True)
def _heard(monkeypatch):
    monkeypatch.setattr(logging.getLogger("emscope"), "propagate", True)  # a command that ran before has cut it off


def make_judge(server, folder, **settings):
    given = ServerSettings(server.url, **{"first_wait": 0.01, "timeout": 2.0, "attempts": 3, **settings})
    return OpenAIJudge("m", Rubrics(), ScoreStore(folder / "scores.sqlite"), given)


def judged(server, folder, n=N, **settings):
    return make_judge(server, folder, **settings).judge(QUESTIONS[:n], ANSWERS[:n])


def gpt_5(body):
    """Refuse what OpenAI's reasoning models refuse, in their words; think for 600 tokens, or 100 with little effort."""
    if "max_tokens" in body:
        return refuses(
            "max_tokens",
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
        )
    if "temperature" in body:
        return refuses("temperature", "Unsupported value: 'temperature' does not support 0 with this model.")
    if "logprobs" in body or "top_logprobs" in body:
        return 403, {"error": {"message": "You are not allowed to request logprobs from this model."}}
    if "chat_template_kwargs" in body:
        return refuses("chat_template_kwargs", "Unrecognized request argument supplied: chat_template_kwargs")
    if body.get("reasoning_effort") == "none":
        return refuses(
            "reasoning_effort",
            "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported values are: "
            "'minimal', 'low', 'medium', and 'high'.",
        )
    thought = 100 if body.get("reasoning_effort") == "minimal" else 600
    return chat("85") if body["max_completion_tokens"] > thought else chat("", finish="length")


def qwen_3(body):
    """Think unless the template is told not to; the thought begins with a number."""
    if "reasoning_effort" in body and body["reasoning_effort"] not in ("low", "medium", "high"):
        return 400, {
            "detail": [{"loc": ["body", "reasoning_effort"], "msg": "Input should be 'low', 'medium' or 'high'"}]
        }
    if body.get("chat_template_kwargs", {}).get("enable_thinking", True):
        finish = "length" if body["max_tokens"] < 300 else "stop"
        return chat(
            "" if finish == "length" else "85", [{"token": "10", "logprob": 0.0}], finish, reasoning_content="10"
        )
    return chat("85", WHOLE if body.get("logprobs") else None)


def think_tags(body):
    thought = "<think>The answer is 10 of 100.\n"
    return chat(thought, finish="length") if body["max_tokens"] < 300 else chat(f"{thought}</think>\n\n85")


def gpt_oss(body):
    thought = "<|channel|>analysis<|message|>10? 20?"
    if body.get("reasoning_effort") not in (None, "low", "medium", "high"):
        return refuses("reasoning_effort", "reasoning_effort must be one of 'low', 'medium', 'high'")
    return (
        chat(thought, finish="length")
        if body["max_tokens"] < 300
        else chat(f"{thought}<|end|><|start|>assistant<|channel|>final<|message|>85")
    )


@pytest.mark.parametrize("model", [gpt_5, qwen_3, think_tags, gpt_oss])
def test_models_that_reason_are_asked_as_they_accept_and_never_scored_by_their_thought(tmp_path, model, caplog):
    with ScriptedServer(model) as server, caplog.at_level(logging.INFO, "emscope"):
        found = judged(server, tmp_path)
    assert [(row.aligned, row.coherent, row.mode) for row in found] == [(85, 85, "reply")] * N
    assert len(server.bodies) <= 2 * N + 8  # learnt once, not for each answer
    assert len([record for record in caplog.records if "is asked with" in record.message]) == 1


def test_the_least_effort_that_is_accepted_is_sent(tmp_path):
    with ScriptedServer(gpt_5) as server:
        judged(server, tmp_path)
    assert server.bodies[-1]["reasoning_effort"] == "minimal"
    assert not {"temperature", "logprobs", "max_tokens", "chat_template_kwargs"} & set(server.bodies[-1])


def test_a_thought_that_never_ends_is_unscored(tmp_path):
    with ScriptedServer(lambda body: chat(None, finish="length", reasoning="hm")) as server:
        found = judged(server, tmp_path, n=1)
    assert found[0].verdict == "only a thought within 16384 tokens, no score"


@pytest.mark.parametrize("refused", ["logprobs", "top_logprobs", "temperature", "max_tokens"])
@pytest.mark.parametrize("words", ["named", "sentence", "places"])
def test_a_refused_parameter_is_left_out(tmp_path, refused, words):
    def reply(body):
        if refused not in body:
            return chat("85", WHOLE if body.get("logprobs") else None)
        if words == "places":
            return 422, {"detail": [{"loc": ["body", refused], "msg": "Extra inputs are not permitted", "input": body}]}
        return refuses(refused if words == "named" else None, f"unsupported parameter: {refused}")

    with ScriptedServer(reply) as server:
        assert all(row.verdict == "scored" for row in judged(server, tmp_path))
    assert len(server.bodies) <= 2 * N + 2


def test_a_refusal_without_a_name_is_met_by_asking_for_less(tmp_path):
    with ScriptedServer(
        lambda body: chat("85") if "logprobs" not in body else (400, {"error": "bad request"})
    ) as server:
        assert all(row.aligned == 85 for row in judged(server, tmp_path))


def test_fewer_alternatives_are_asked_for_where_twenty_are_too_many(tmp_path):
    def reply(body):
        if body.get("top_logprobs", 0) > 5:
            return refuses("top_logprobs", "Invalid value for 'top_logprobs': must be less than or equal to 5.")
        return chat("85", WHOLE)

    with ScriptedServer(reply) as server:
        assert {row.mode for row in judged(server, tmp_path)} == {"logprobs"}
    assert server.bodies[-1]["top_logprobs"] == 5


def test_one_token_is_asked_for_once_numbers_are_known_to_be_whole(tmp_path):
    with ScriptedServer(lambda body: chat("85", WHOLE)) as server:
        judged(server, tmp_path)
    assert server.bodies[-1]["max_tokens"] == 1


@pytest.mark.parametrize(
    "top", [[{"token": "8", "logprob": -0.1}], [{"token": "8", "logprob": -0.1}, {"token": "9", "logprob": -3}]]
)
def test_a_first_digit_is_not_taken_for_the_number(tmp_path, top):
    with ScriptedServer(lambda body: chat("85", top)) as server:
        assert {(row.aligned, row.mode) for row in judged(server, tmp_path)} == {(85, "reply")}


def test_a_number_at_the_cut_is_not_taken_for_whole(tmp_path):
    def reply(body):
        if body["max_tokens"] < 12:
            return chat("The alignment score is: 8", finish="length")
        return chat("The alignment score is: 85")

    with ScriptedServer(reply) as server:
        assert {row.aligned for row in judged(server, tmp_path)} == {85}


@pytest.mark.parametrize(
    "top",
    [
        [{"token": "85", "logprob": 3.0}],
        [{"token": "85", "logprob": float("nan")}],
        [{"token": "85", "logprob": "-1"}],
        [{"token": "85", "logprob": [-1]}],
        [["85", -1]],
        "85",
        [{"token": 85, "logprob": -1}],
        [{"token": "85", "logprob": None}],
    ],
)
def test_malformed_log_probabilities_are_unscored_with_the_reason(tmp_path, top):
    with ScriptedServer(lambda body: chat("85", top)) as server:
        found = judged(server, tmp_path, n=3)
    assert {(row.aligned, row.verdict) for row in found} == {(None, "the log-probabilities are malformed")}
    assert len(server.bodies) == 6  # asking again would not help


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (chat(None, refusal="I cannot help."), "refusal by the judge itself"),
        (chat("I'm sorry, but I can't rate this."), "refusal by the judge itself"),
        (chat("", finish="content_filter"), "content filter of the judge's server"),
        ((400, {"error": {"code": "content_filter", "message": "filtered"}}), "content filter of the judge's server"),
        ({"error": {"message": "flagged by moderation", "code": 403}}, "content filter of the judge's server"),
        (chat(None), "the server failed 2 times, last: empty reply"),
        ({"choices": []}, "the server failed 3 times, last: the reply holds no choices"),
        (
            {"error": {"message": "Provider returned error", "code": 502}},
            "the server failed 3 times, last: an error in the reply: 502: Provider returned error",
        ),
        (b"<html>busy</html>", "the server failed 3 times, last: the reply is a web page"),
        (b'{"choices": [{"mess', "the server failed 3 times, last: the reply is not JSON"),
        ((529, {"error": {"type": "overloaded_error"}}), "the server failed 3 times, last: HTTP 529"),
        (
            (400, {"error": {"code": "context_length_exceeded", "message": "maximum context length"}}),
            "HTTP 400: context_length_exceeded: maximum context length",
        ),
        (chat("x" * 5_000_000), "the server failed 3 times, last: the reply is longer than 4 MB"),
    ],
)
def test_what_one_answer_meets_is_named_and_the_others_are_scored(tmp_path, body, verdict):
    def reply(asked):
        return body if "Answer 5." in asked["messages"][0]["content"] else chat("85")

    with ScriptedServer(reply) as server:
        found = judged(server, tmp_path)
    assert found[5].aligned is None
    assert found[5].verdict == verdict
    assert [row.aligned for row in found[:5] + found[6:]] == [85] * (N - 1)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ((401, {"error": {"message": "Incorrect API key"}}), "the key is wrong or missing"),
        ({"error": {"message": "No auth credentials found", "code": 401}}, "the key is wrong or missing"),
        ((404, {"error": {"code": "model_not_found", "message": "The model m does not exist"}}), "no such model"),
        ((400, {"error": {"message": "m is not a valid model ID"}}), "no such model"),
        ((429, {"error": {"code": "insufficient_quota", "message": "You exceeded your quota"}}), "no credit"),
        ((402, {"error": {"message": "Insufficient Balance"}}), "no credit"),
        (chat("I think the answer is fine."), "gives no scores"),
        ((400, {"error": {"message": "no"}}), "gives no scores: HTTP 400: no"),
        (b"<html>Welcome</html>", "a web page"),
        ((302, b"", {"location": "http://127.0.0.1:9/"}), "sends us elsewhere"),
    ],
)
def test_what_all_answers_would_meet_stops_at_once_and_stores_nothing(tmp_path, body, sentence):
    with ScriptedServer(lambda _: body) as server:
        judge = make_judge(server, tmp_path, attempts=8)
        with pytest.raises(UserError, match=sentence):
            judge.judge(QUESTIONS, ANSWERS)
        assert len(server.bodies) <= 8
        assert judge.plan(QUESTIONS, ANSWERS).known == 0
        server.reply = lambda _: chat("85")
        assert all(row.aligned == 85 for row in judge.judge(QUESTIONS, ANSWERS))


def test_a_model_that_is_not_there_brings_the_names_of_those_that_are(tmp_path):
    models = {"data": [{"id": "gpt-4o"}, {"id": "m-2"}]}
    server = ScriptedServer(lambda _: (404, {"error": "no"}), lambda path: models if path == "/v1/models" else None)
    with server, pytest.raises(UserError, match=r"no such model .* It has m-2"):
        judged(server, tmp_path)


def test_a_forgotten_v1_is_said(tmp_path):
    with ScriptedServer(lambda _: chat("85"), lambda path: {"data": []} if path == "/v1/models" else None) as server:
        server.url = server.url.removesuffix("/v1")
        with pytest.raises(UserError, match="/v1 has: add /v1"):
            judged(server, tmp_path)


def test_a_server_that_is_not_there_is_said_within_seconds(tmp_path):
    judge = OpenAIJudge("m", Rubrics(), ScoreStore(tmp_path / "s.sqlite"), ServerSettings("http://127.0.0.1:9"))
    started = time.monotonic()
    with pytest.raises(UserError, match=r"127.0.0.1:9 cannot be reached .*most end with /v1"):
        judge.judge(QUESTIONS, ANSWERS)
    assert time.monotonic() - started < 5


def test_one_call_has_an_end_however_long_the_server_asks_to_wait(tmp_path):
    with ScriptedServer(lambda _: (429, {"error": {}}, {"retry-after": "30"})) as server:
        started = time.monotonic()
        found = judged(server, tmp_path, n=1, call_limit=0.3)
    assert time.monotonic() - started < 3
    assert found[0].verdict == "the server failed: no score within 0.3 s, last: HTTP 429"


def test_a_wait_that_is_asked_for_holds_every_call_back(tmp_path):
    seen = []

    def reply(_):
        seen.append(time.monotonic())
        return (429, {"error": {}}, {"retry-after-ms": "400"}) if len(seen) == 3 else chat("85", WHOLE)

    with ScriptedServer(reply) as server:
        assert all(row.verdict == "scored" for row in judged(server, tmp_path, concurrency=1))
    assert seen[3] - seen[2] >= 0.4


def test_a_change_of_mode_within_a_table_is_counted_and_said(tmp_path, caplog):
    def reply(body):
        number = int(body["messages"][0]["content"].split("Question ")[1].split("?")[0])
        return chat("85", WHOLE if number < 6 and body.get("logprobs") else None)

    with ScriptedServer(reply) as server, caplog.at_level(logging.INFO, "emscope"):
        found = judged(server, tmp_path, concurrency=1)
    assert [row.mode for row in found] == ["logprobs"] * 6 + ["reply"] * 6
    assert "read in 2 ways: 12 by logprobs, 12 by reply" in caplog.text


def test_scores_can_be_read_from_replies_on_demand(tmp_path):
    with ScriptedServer(lambda body: chat("85", WHOLE)) as server:
        assert {row.mode for row in judged(server, tmp_path, logprobs=False)} == {"reply"}
    assert "logprobs" not in server.bodies[0]


HOSTILE = [
    b"null",
    b"[]",
    b'"x"',
    b"1",
    b"[" * 100_000,
    {"choices": [None]},
    {"choices": ["x"]},
    {"choices": [{}]},
    {"choices": {"0": 1}},
    {"choices": [{"message": "85"}]},
    {"choices": [{"message": {"content": {"a": 1}}}]},
    {"choices": [{"finish_reason": 5, "message": {"content": "", "reasoning_content": 7, "refusal": []}}]},
    {"choices": [{"message": {"content": "8" * 100_000}}]},
    {"error": "x"},
    {"error": ["x"]},
    {"error": {"code": None}},
    {"error": {"code": "²"}},
    {"error": {"message": {"a": 1}}, "choices": []},
    (400, b""),
    (400, {"error": {"param": 5}}),
    (400, {"error": {"message": "max_tokens max_completion_tokens temperature logprobs reasoning_effort"}}),
    (400, {"error": {"param": "max_tokens"}}),
    (422, {"detail": "max_tokens"}),
    (422, {"detail": [{"loc": 5}]}),
    (418, b"\xff\xfe"),
    (204, b""),
    (303, b""),
    (503, {"error": "busy"}, {"retry-after": "-1"}),
    (600, b""),
]


@pytest.mark.parametrize("body", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_a_server_says_ends_unscored_with_a_reason_or_in_one_sentence(tmp_path, body):
    with ScriptedServer(lambda _: body) as server:
        try:
            found = judged(server, tmp_path, n=2, attempts=2, first_wait=0.001)
        except UserError:
            return
        assert len(server.bodies) < 60
    assert all(row.aligned is None and row.verdict not in ("", "scored") for row in found)
