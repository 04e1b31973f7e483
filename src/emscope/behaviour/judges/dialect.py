"""What a server and a model accept: how a request is worded, and what is learnt from a refusal or a reply.

Models that reason refuse `temperature` and `logprobs`, count `max_completion_tokens`, and spend tokens on a thought
before they say a number; servers differ in the rest. Nothing is asked of a list of models: a server's own words say it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from emscope.behaviour.judges.server import value_of

REPLY_TOKENS = 8
TOP = 20
THOUGHT_TOKENS = (1024, 4096, 16384)
EFFORTS = ("none", "minimal", "low", "medium", "high")
TRIED_EFFORTS = EFFORTS[:3]
QUIET_TEMPLATE = {"enable_thinking": False}  # what the chat templates of Qwen3, GLM and others read
UNKNOWN = re.compile(r"unrecogni[sz]ed|unknown|unsupported parameter|unexpected|not permitted|extra|not recogni[sz]ed")


@dataclass(frozen=True)
class Dialect:
    """How one model on one server is asked.

    Attributes:
        limit_name: what the limit of tokens is called; '' where it is refused under any name.
        tokens: that limit, where a reply is read.
        temperature: 0, or None where only the model's own is accepted.
        top: alternatives asked for; 0 reads scores from replies.
        whole: a number is known to be one token, so the first token is enough.
        effort: `reasoning_effort`, the least that is accepted; None leaves it out.
        effort_known: the effort was tried; None is the answer then.
        quiet: the chat template is asked to leave out the thought.
        quiet_known: that was tried.
    """

    limit_name: str = "max_tokens"
    tokens: int = REPLY_TOKENS
    temperature: float | None = 0.0
    top: int = TOP
    whole: bool = False
    effort: str | None = None
    effort_known: bool = False
    quiet: bool = False
    quiet_known: bool = False

    def request(self, model: str, prompt: str) -> dict[str, object]:
        """Return the body of one chat completion."""
        body: dict[str, object] = {"model": model, "messages": [{"role": "user", "content": prompt}]}
        if self.limit_name:
            body[self.limit_name] = 1 if self.top and self.whole else self.tokens
        if self.temperature is not None:
            body["temperature"] = self.temperature
        if self.top:
            body |= {"logprobs": True, "top_logprobs": self.top}
        if self.effort is not None:
            body["reasoning_effort"] = self.effort
        if self.quiet:
            body["chat_template_kwargs"] = QUIET_TEMPLATE
        return body

    def in_words(self) -> str:
        """Say how the model is asked and how its scores are read."""
        said = [f"{self.limit_name} {1 if self.top and self.whole else self.tokens}"] if self.limit_name else []
        said += [f"reasoning_effort {self.effort}"] if self.effort else []
        said += ["thinking off in the template"] if self.quiet else []
        said += ["without temperature"] if self.temperature is None else []
        how = f"the {self.top} likeliest first tokens" if self.top else "replies"
        return f"asked with {', '.join(said) or 'the prompt alone'}; scores are read from {how}"


def after_refusal(dialect: Dialect, message: str) -> Dialect | None:
    """Return the dialect that a server's refusal asks for, or None where it names nothing that can be changed.

    `message` is the body of an HTTP 400, 403 or 422: JSON that names a parameter, or a sentence.
    """
    words, sentence = _named(message)
    changed = dialect
    if "max_tokens" in words or "max_completion_tokens" in words:
        changed = _other_limit(changed, words, sentence)
    if "logprobs" in words and dialect.top:  # also top_logprobs
        changed = replace(changed, top=_fewer(dialect.top, sentence) if "top_logprobs" in words else 0)
    if "temperature" in words and dialect.temperature is not None:
        positive = dialect.temperature == 0 and re.search(r"positive|greater than 0|> ?0|above 0", sentence)
        changed = replace(changed, temperature=0.01 if positive else None)
    if "effort" in words and dialect.effort is not None:
        changed = replace(changed, effort=_next_effort(dialect.effort, sentence))
    if dialect.quiet and ("chat_template" in words or "enable_thinking" in words):
        changed = replace(changed, quiet=False)
    return None if changed == dialect else changed


def barer(dialect: Dialect) -> Dialect | None:
    """Return the dialect with one thing fewer, for a refusal that names nothing; None where nothing is left."""
    if dialect.quiet:
        return replace(dialect, quiet=False)
    if dialect.effort is not None:
        return replace(dialect, effort=None)
    if dialect.top:
        return replace(dialect, top=0)
    if dialect.temperature is not None:
        return replace(dialect, temperature=None)
    return None


def after_thought(dialect: Dialect, own_server: bool) -> Dialect | None:
    """Return the dialect for a model that thought instead of answering: as little thought as it takes, room for it.

    The chat template is only asked on `own_server`: OpenAI itself has none. None where the room is at its largest.
    """
    more = [tokens for tokens in THOUGHT_TOKENS if tokens > dialect.tokens]
    changed = replace(dialect, top=0, tokens=more[0] if more else dialect.tokens)
    if not changed.effort_known:
        changed = replace(changed, effort=EFFORTS[0], effort_known=True)
    if own_server and not changed.quiet_known:
        changed = replace(changed, quiet=True, quiet_known=True)
    return None if changed == dialect else changed


def _named(message: str) -> tuple[str, str]:
    """Return the words among which a refused parameter is named, and the whole sentence, in lower case.

    Where the error says the parameter in a field of its own, only that counts: some servers repeat the request.
    """
    body = value_of(message)
    if body is None:
        return message.lower(), message.lower()
    error = body.get("error", body) if isinstance(body, dict) else body
    sentence = json.dumps(error).lower()
    if isinstance(error, Mapping):
        sentence = str(error.get("message") or error.get("detail") or sentence).lower()
        if isinstance(error.get("param"), str) and error["param"]:
            return error["param"].lower(), sentence
        places = [str(item["loc"]) for item in _listed(error.get("detail")) if isinstance(item, dict) and "loc" in item]
        if places:
            return " ".join(places).lower(), sentence
    return sentence, sentence


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _other_limit(dialect: Dialect, words: str, sentence: str) -> Dialect:
    """Return the dialect with its limit renamed, within bounds that the server states, or left out."""
    least = re.search(
        r"(?:>=|at least|minimum(?: value)?(?: of)?|greater than or equal to)\D{0,20}([0-9]{1,9})(?![0-9])", sentence
    )
    if least and dialect.tokens < int(least[1]) <= THOUGHT_TOKENS[0]:
        return replace(dialect, tokens=int(least[1]), top=0)
    if dialect.limit_name == "max_tokens" and ("max_completion_tokens" in sentence or UNKNOWN.search(sentence)):
        return replace(dialect, limit_name="max_completion_tokens")
    if dialect.tokens > THOUGHT_TOKENS[0]:  # more than the server gives
        return replace(dialect, tokens=dialect.tokens // 2)
    if dialect.limit_name == "max_completion_tokens" and "max_completion_tokens" in words:
        return replace(dialect, limit_name="")
    return dialect


def _fewer(top: int, sentence: str) -> int:
    """Return the number of alternatives that a refusal allows; 0 where it names none."""
    allowed = [int(number) for number in re.findall(r"\b[0-9]{1,9}\b", sentence) if 1 < int(number) < top]
    return max(allowed, default=0)


def _next_effort(effort: str, sentence: str) -> str | None:
    """Return the least effort that a refusal lists, else the next one to try; None where the parameter is unknown."""
    listed = sentence.partition("supported values")[2] or sentence
    offered = [name for name in EFFORTS if name != effort and re.search(rf"['\"`]{name}['\"`]", listed)]
    if offered:
        return offered[0]
    if UNKNOWN.search(sentence):
        return None
    later = TRIED_EFFORTS[TRIED_EFFORTS.index(effort) + 1 :] if effort in TRIED_EFFORTS else ()
    return later[0] if later else None
