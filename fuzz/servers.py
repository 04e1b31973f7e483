"""Hostile replies of judges' servers: chat completions, log-probabilities, errors, batches, lists of models, headers.

Nothing is sent: what a server would say is read by the functions that read it in a command. A reply that does not fit
may be tried again, asked for otherwise or be unscored; a score is always a number from 0 to 100.
"""

from __future__ import annotations

import copy
import json
import math
import random
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.damage import TEXTS, damaged_bytes, damaged_value, json_text
from fuzz.harness import Case, Target

KEY = "qJ7-Zt9wLm2XvB4nRk8s"
WORDS = (
    "85",
    "85.5",
    "85/100",
    "**85**",
    "Score: 85",
    '{"score": 85}',
    '```json\n{"score": 85}\n```',
    "REFUSAL",
    "CODE",
    "-1",
    "101",
    "1e999",
    "NaN",
    "0.85",
    "85,5",
    "٨٥",
    "８５",
    "<think>hm</think>85",
    "<think>",
    "</think>" * 300,
    "[THINK]x[/THINK]7",
    "<|channel|>final<|message|>85",
    '{"score": ' + "9" * 5000 + "}",
    '{"score": ' * 90,
    "`" * 5000,
    "_" * 5000,
    " " * 5000,
    "<think>" * 3000,
    "I'm sorry",
    "\ud800",
    "\0",
    "85\u2028",
    "",
    " ",
    "9" * 5000,
    f"bad key {KEY}",
    f"Bearer {KEY}",
)
LOGPROBS = (
    0,
    -0.1,
    -9999,
    1000,
    0.5,
    float("nan"),
    float("inf"),
    float("-inf"),
    "x",
    [],
    {},
    None,
    True,
    10**400,
    -(10**400),
)
MESSAGES = (
    "Unsupported parameter: 'max_tokens'",
    "temperature must be positive",
    "top_logprobs must be at most " + "9" * 5000,
    "max_tokens must be at least " + "9" * 5000,
    "max_tokens >= 16",
    "reasoning_effort: supported values 'low'",
    "logprobs",
    "insufficient_quota",
    "model_not_found",
    "content_filter",
    "context length",
    "rate limit",
    f"key {KEY} is wrong",
    KEY,
)


def _completion(rng: random.Random) -> dict[str, Any]:
    top = [{"token": rng.choice((*WORDS[:20], "8", "5")), "logprob": rng.choice(LOGPROBS[:3])} for _ in range(3)]
    content = rng.choice(WORDS)
    message = {"role": "assistant", "content": content, "reasoning_content": rng.choice((None, "", "hm"))}
    choice = {
        "index": 0,
        "finish_reason": rng.choice(("stop", "length", "content_filter", "error", None)),
        "message": message,
        "logprobs": {"content": [{"token": "8", "logprob": -0.1, "top_logprobs": top}]},
    }
    return {"id": "1", "object": "chat.completion", "model": "m", "choices": [choice]}


def _error(rng: random.Random) -> dict[str, Any]:
    message = rng.choice((*MESSAGES, *TEXTS))
    error = {"message": message, "type": "invalid_request_error", "param": rng.choice((None, "logprobs", "max_tokens"))}
    return {"error": {**error, "code": rng.choice((None, 429, "429", "model_not_found", KEY))}}


def _hostile(rng: random.Random, value: Any) -> str:
    """Return a reply's text: the value, damaged in its parts or its bytes."""
    if rng.random() < 0.2:
        return damaged_bytes(rng, json.dumps(value).encode()).decode("utf-8", errors="replace")
    return json_text(rng, damaged_value(rng, copy.deepcopy(value)))


def _dialect(rng: random.Random) -> Any:
    from emscope.behaviour.judges.dialect import Dialect

    return Dialect(top=rng.choice((0, 5, 20)), whole=rng.random() < 0.3, tokens=rng.choice((8, 64, 16384)))


def _checked(score: Any) -> None:
    """Hold a score to what every table relies on."""
    from emscope.redaction import redact
    from emscope.terminal import one_line

    assert score.value is None or (isinstance(score.value, float) and 0 <= score.value <= 100), score
    assert score.value is None or math.isfinite(score.value), score
    assert (score.value is not None) == (score.verdict == "scored"), score
    assert len(score.verdict) < 500, score
    score.verdict.encode()  # no halves of characters: no table takes them
    assert redact(score.verdict) == score.verdict, score
    assert one_line(score.verdict) == score.verdict.strip(), score


def _read_reply(status: int, text: str, dialect: Any) -> None:
    """Read a reply as the judge does."""
    from emscope.behaviour.judges.failures import Learnt, Retry, Unscored, WrongAddressOrModelError, error_in, failure
    from emscope.behaviour.judges.replies import score_of
    from emscope.behaviour.judges.server import Reply
    from emscope.errors import UserError

    reply = Reply(status, text, {"retry-after": "1"})
    body = reply.json() if status == 200 else None
    hidden = error_in(body)
    try:
        if status != 200 or hidden is not None:
            raise failure(Reply(hidden or status, text), dialect, "http://h/v1", "m")
        if body is not None:
            _checked(score_of(body, dialect, own_server=True)[0])
    except Unscored as unscored:
        _checked(unscored.score)
    except (Learnt, Retry):
        pass
    except (UserError, WrongAddressOrModelError) as wrong:
        assert KEY not in str(wrong), wrong


def _target(make: Callable[[random.Random], Callable[[], object]]) -> Target:
    def target(rng: random.Random, folder: Path) -> Case:
        from emscope.redaction import keep_secret

        keep_secret(KEY)
        return None, make(rng)

    return target


def chat_reply(rng: random.Random) -> Callable[[], object]:
    """A chat completion, damaged."""
    text, dialect = _hostile(rng, _completion(rng)), _dialect(rng)
    return lambda: _read_reply(200, text, dialect)


def logprobs(rng: random.Random) -> Callable[[], object]:
    """A chat completion whose log-probabilities are damaged alone."""
    value = _completion(rng)
    given = value["choices"][0]["logprobs"]
    given["content"][0]["top_logprobs"] = [
        {"token": rng.choice(("85", "8", "100", "0", "REFUSAL", "The", 85, None)), "logprob": rng.choice(LOGPROBS)}
        for _ in range(rng.choice((1, 5, 20, 3000)))
    ]
    value["choices"][0]["logprobs"] = damaged_value(rng, given) if rng.random() < 0.5 else given
    text, dialect = json_text(rng, value), _dialect(rng)
    return lambda: _read_reply(200, text, dialect)


def error_body(rng: random.Random) -> Callable[[], object]:
    """An error, with any status, also within a reply of 200."""
    text, dialect = _hostile(rng, _error(rng)), _dialect(rng)
    status = rng.choice((200, 200, 101, 204, 301, 400, 401, 402, 403, 404, 408, 418, 422, 429, 500, 503, 529, 599))
    return lambda: _read_reply(status, text, dialect)


def spoken_score(rng: random.Random) -> Callable[[], object]:
    """A reply in words."""
    text = "".join(rng.choice((*WORDS, *TEXTS, *string.punctuation)) for _ in range(rng.choice((1, 1, 2, 5, 60))))

    def read() -> None:
        from emscope.behaviour.judges.scoring import score_from_reply

        _checked(score_from_reply(text))

    return read


def batch_results(rng: random.Random) -> Callable[[], object]:
    """A file of a batch's results: foreign ids, lines twice, damaged lines."""
    keys = [f"k{number}" for number in range(4)]
    lines = []
    for key in rng.choices([*keys, "foreign", *TEXTS], k=8):
        response = {"status_code": rng.choice((200, 200, 400, 0, "x", 10**400, [])), "body": _completion(rng)}
        lines.append(_hostile(rng, {"custom_id": key, "response": response, "error": rng.choice((None, KEY, {}))}))
    text, dialect = "\n".join(lines), _dialect(rng)

    def read() -> None:
        from emscope.behaviour.judges.batch import answer_in, results

        for key, entry in results(text, set(keys)):
            assert key in keys
            body, status = answer_in(entry)
            _read_reply(status, json.dumps(body), dialect)

    return read


def models_list(rng: random.Random) -> Callable[[], object]:
    """A server's list of models."""
    value = {"data": [{"id": rng.choice((*TEXTS, "m", KEY, 7, None))} for _ in range(rng.choice((0, 3, 2000)))]}
    text = _hostile(rng, value)

    def read() -> None:
        from emscope.behaviour.judges.openai_judge import model_names
        from emscope.behaviour.judges.server import value_of

        body = value_of(text)
        listed = body.get("data") if isinstance(body, dict) else None
        names = model_names(listed) if isinstance(listed, list) else []
        assert all(KEY not in name and "\x1b" not in name and len(name) < 2000 for name in names), names

    return read


def waits(rng: random.Random) -> Callable[[], object]:
    """The headers that say how long to wait."""
    values = (
        "1",
        "1.5",
        "-5",
        "1e9",
        "9" * 5000,
        "nan",
        "inf",
        "6m0s",
        "1.2.3s",
        "20ms" * 200,
        "Wed, 21 Oct 2015 07:28:00 GMT",
        "Wed, 99 Foo 99999 99:99:99 GMT",
        "2026-02-30T25:00:00Z",
        "2026-11-28T13:00:00+99:99",
        "9999-12-31T23:59:59-14:00",
        *TEXTS,
    )
    names = ("retry-after", "retry-after-ms", "x-ratelimit-reset-requests", "x-ratelimit-reset-tokens")
    headers = {}
    for name in rng.sample(names, rng.randrange(1, 5)):
        text = rng.choice(values)
        changed = damaged_bytes(rng, text.encode("utf-8", "replace")).decode("latin-1")
        headers[name] = changed if rng.random() < 0.5 else text
    if rng.random() < 0.3:
        headers["x-ratelimit-remaining-tokens"] = "0"

    def read() -> None:
        from emscope.behaviour.judges.server import LONGEST_WAIT, retry_after

        assert 0 <= retry_after(headers) <= LONGEST_WAIT, headers

    return read


READERS: dict[str, Target] = {
    "judge-chat-reply": _target(chat_reply),
    "judge-logprobs": _target(logprobs),
    "judge-error-body": _target(error_body),
    "judge-spoken-score": _target(spoken_score),
    "judge-batch-results": _target(batch_results),
    "judge-models-list": _target(models_list),
    "judge-waits": _target(waits),
}
