"""From the body of a chat completion to a score, or to what must be asked otherwise."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import Any

from emscope.behaviour.judges.dialect import REPLY_TOKENS, Dialect, after_thought
from emscope.behaviour.judges.failures import Learnt, Retry, Unscored
from emscope.behaviour.judges.scoring import (
    CONTENT_FILTER,
    MALFORMED,
    REFUSED_TO_JUDGE,
    VERDICTS,
    Score,
    is_score,
    score_from_logprobs,
    score_from_reply,
    without_thought,
)

FORM_TOKENS = 64  # room for a score in JSON, in a fence, in bold
SMALLEST_LOGPROB = -1e4  # servers write -9999 for what cannot be
ROUNDING = 1e-3  # a log-probability may be this much above 0
FILTERS = ("content_filter", "content-filter", "safety", "prohibited_content", "recitation", "blocklist", "sensitive")


@dataclass(frozen=True)
class Spoken:
    """What a choice says: its text after the thought (None where the thought does not end), and how it ended."""

    text: str | None
    thought: bool
    cut: bool


def score_of(body: Any, dialect: Dialect, own_server: bool) -> tuple[Score, Dialect]:
    """Return the score in a reply and the dialect to go on with.

    Raises:
        Retry: the reply is damaged; another may not be.
        Learnt: the model must be asked otherwise.
        Unscored: there is no score in it, and asking again would not help.
    """
    choices = body.get("choices") if isinstance(body, dict) else None
    if not isinstance(choices, list) or not choices:
        raise Retry("the reply holds no choices")
    choice = choices[0] if isinstance(choices[0], dict) else {}
    spoken = _spoken(choice)
    if spoken.text is None or (not spoken.text.strip() and (spoken.thought or spoken.cut)):
        _ask_for_less_thought(dialect, own_server)
    assert spoken.text is not None
    if not dialect.top:
        return _from_reply(spoken, dialect), dialect
    if spoken.thought:  # the first token was the thought's
        raise Learnt(after_thought(dialect, own_server) or replace(dialect, top=0))
    return _from_first_token(choice, spoken, dialect)


def _spoken(choice: dict[str, Any]) -> Spoken:
    """Return what a choice says.

    Raises:
        Unscored: the server or the model refused to say anything.
        Retry: the server broke off.
    """
    message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
    assert isinstance(message, dict)
    ending = str(choice.get("finish_reason") or "").lower()
    if ending in FILTERS:
        raise Unscored(CONTENT_FILTER, keep=True)
    if message.get("refusal") or ending == "refusal":
        raise Unscored(REFUSED_TO_JUDGE, keep=True)
    if ending == "error":
        raise Retry("the server broke off")
    content = _text(message.get("content"))
    spoken = without_thought(content)
    reasoned = bool(_text(message.get("reasoning_content")).strip() or _text(message.get("reasoning")).strip())
    return Spoken(spoken, reasoned or spoken != content, ending in ("length", "max_tokens"))


def _text(content: Any) -> str:
    """Return content as text; of a list of parts, those that are said aloud."""
    if isinstance(content, list):
        said = []
        for part in content:
            if isinstance(part, dict) and part.get("type") in ("text", "output_text"):
                said.append(str(part.get("text") or ""))
        return "".join(said)
    if isinstance(content, str):
        return content
    return str(content) if isinstance(content, int | float) and not isinstance(content, bool) else ""


def _ask_for_less_thought(dialect: Dialect, own_server: bool) -> None:
    changed = after_thought(dialect, own_server)
    if changed is None:
        raise Unscored(f"only a thought within {dialect.tokens} tokens, no score")
    raise Learnt(changed)


def _from_reply(spoken: Spoken, dialect: Dialect) -> Score:
    assert spoken.text is not None
    if not spoken.text.strip():
        raise Retry("empty reply", tries=2)
    if spoken.cut and dialect.tokens <= REPLY_TOKENS:  # a number at the cut may go on: 8 of 85
        raise Learnt(replace(dialect, tokens=FORM_TOKENS))
    return score_from_reply(spoken.text)


def _from_first_token(choice: dict[str, Any], spoken: Spoken, dialect: Dialect) -> tuple[Score, Dialect]:
    """Return the score by the first token's alternatives, and whether numbers are known to be whole tokens.

    Until a number of two digits was seen as one token, a single digit may be the beginning of a longer number, so the
    reply itself decides.
    """
    top = top_tokens(choice)
    if not top:
        raise Learnt(replace(dialect, top=0))
    numbers = {token.strip() for token, _ in top if is_score(token.strip())}
    if dialect.whole or any(len(number) > 1 for number in numbers):
        return score_from_logprobs(top), replace(dialect, whole=True)

    score = score_from_logprobs(top)
    if score.verdict in VERDICTS:
        return score, dialect
    assert spoken.text is not None
    begins = re.match(r"\s*([0-9]+)", spoken.text)
    if len(numbers) >= 5 or (numbers and begins and len(begins[1]) > 1):  # numbers are split into digits
        raise Learnt(replace(dialect, top=0))
    reply = score_from_reply(spoken.text)
    if numbers:
        if spoken.cut:
            raise Learnt(replace(dialect, top=0))
        return reply, dialect
    if reply.verdict == "scored" or reply.verdict in VERDICTS or _opens_a_form(spoken):  # the number comes later
        raise Learnt(replace(dialect, top=0))
    return score, dialect


def _opens_a_form(spoken: Spoken) -> bool:
    """Say whether a reply begins as scores in JSON, in bold or after a label do, and was cut before its end."""
    return spoken.cut and bool(re.match(r"\s*(?:[{*`]|[A-Za-z ]{0,24}[:=])", spoken.text or ""))


def top_tokens(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the first token's alternatives, (token, log-probability in nats); empty where the server gave none.

    Raises:
        Unscored: they are there, and are no log-probabilities.
    """
    given = choice.get("logprobs")
    if given is None or given == {}:
        return []
    content = given.get("content") if isinstance(given, dict) else given
    if content is None or content == []:
        return []
    if not isinstance(content, list) or not isinstance(content[0], dict):
        raise Unscored(MALFORMED)
    listed = content[0].get("top_logprobs")
    if listed is None or listed == []:
        return []
    if not isinstance(listed, list):
        raise Unscored(MALFORMED)
    return list(map(_alternative, listed))


def _alternative(entry: Any) -> tuple[str, float]:
    token, logprob = (entry.get("token"), entry.get("logprob")) if isinstance(entry, dict) else (None, None)
    number = isinstance(logprob, int | float) and not isinstance(logprob, bool)
    if not isinstance(token, str) or not number:
        raise Unscored(MALFORMED)
    assert isinstance(logprob, int | float)
    if logprob == -math.inf:
        return token, SMALLEST_LOGPROB
    if not SMALLEST_LOGPROB <= logprob <= ROUNDING:  # also NaN, and numbers too long for a float
        raise Unscored(MALFORMED)
    return token, float(logprob)
