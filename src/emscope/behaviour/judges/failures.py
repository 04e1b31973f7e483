"""What a server's failure means: try again, ask otherwise, an unscored answer, or the user's mistake."""

from __future__ import annotations

import json
import re
from typing import Any

from emscope.behaviour.judges.dialect import Dialect, after_refusal
from emscope.behaviour.judges.scoring import CONTENT_FILTER, Score
from emscope.behaviour.judges.server import Reply, retry_after, value_of
from emscope.errors import UserError
from emscope.redaction import redact_said
from emscope.terminal import one_line

RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
WRONG_KEY, NO_SUCH_MODEL = "the key is wrong or missing", "there is no such model or path"
REFUSED = {
    401: WRONG_KEY,
    402: "there is no credit left",
    403: "the key may not use this model",
    404: NO_SUCH_MODEL,
    405: NO_SUCH_MODEL,
}
LEARNT_FROM = (400, 403, 422, 500, 501)  # llama-cpp-python says with 500 that it has no logprobs
NO_CREDIT = re.compile(
    r"insufficient[_ ](?:quota|credit|balance|funds)|exceeded_current_quota|billing_(?:hard_limit|not_active)|"
    r"no credit|credits? (?:balance|exhausted)|out of credit",
    re.IGNORECASE,
)
NO_MODEL = re.compile(
    r"model_not_found|invalid model|not a valid model|model[^.]{0,80}(?:not exist|not found|is not available)|"
    r"no such model|unknown model",
    re.IGNORECASE,
)
FILTERED = re.compile(
    r"content_?filter|content[_ ](?:policy|management policy)|responsibleai|moderation|\bflagged\b", re.I
)
TOO_LONG = re.compile(r"context[_ ](?:length|window|size)|too long|reduce the length|maximum context", re.I)
SHOWN = 200  # characters of a server's own words
LONGEST_ERROR = 2**14  # characters of an error that are read


class Retry(Exception):  # noqa: N818 - it is control flow: try again, for this reason
    """Try the call again after `wait` seconds, `tries` times at most; `pause` where every call should wait."""

    def __init__(self, reason: str, wait: float = 0.0, *, tries: int | None = None, pause: bool = False) -> None:
        super().__init__(reason)
        self.wait, self.tries, self.pause = wait, tries, pause


class Learnt(Exception):  # noqa: N818 - it is control flow: ask otherwise
    """The same call must be asked in another dialect."""

    def __init__(self, dialect: Dialect) -> None:
        super().__init__(dialect.in_words())
        self.dialect = dialect


class Unscored(Exception):  # noqa: N818 - becomes the verdict of one answer
    """The call has no score; `keep` where asking again would bring the same, `refused` where its form may be why."""

    def __init__(self, reason: str, *, keep: bool = False, refused: bool = False) -> None:
        super().__init__(reason)
        self.score, self.keep, self.refused = Score(None, reason, "none"), keep, refused


class WrongAddressOrModelError(Exception):
    """The server has no such path or model; a look at what it has will tell which."""

    def __init__(self, code: int, said: str) -> None:
        super().__init__(said)
        self.code, self.said = code, said


def failure(reply: Reply, dialect: Dialect, where: str, model: str) -> Exception:
    """Return what a reply that is no chat completion means; `where` and `model` are named in sentences."""
    code, text = reply.status, redact_said(reply.text[:LONGEST_ERROR])
    said = server_words(text)
    if code < 500 and code != 429 and FILTERED.search(said):
        return Unscored(CONTENT_FILTER, keep=True)
    if code == 402 or (code < 500 and NO_CREDIT.search(text)):
        return refusal(402, said, where, model)
    if code in LEARNT_FROM and (code in (400, 422) or "logprobs" in text.lower()):
        changed = None if TOO_LONG.search(said) and "max_" not in said else after_refusal(dialect, text)
        if changed is not None:
            return Learnt(changed)
    if 300 <= code < 400 or code in (404, 405) or (code in (400, 422) and NO_MODEL.search(text)):
        return WrongAddressOrModelError(code, said)
    if code in REFUSED:
        return refusal(code, said, where, model)
    if code in RETRIED:
        wait = retry_after(reply.headers) if code in (408, 429) or code >= 500 else 0.0
        return Retry(f"HTTP {code}", wait, pause=wait > 0)
    return Unscored(f"HTTP {code}: {said}", refused=code in (400, 422) and not TOO_LONG.search(said))


def refusal(code: int, said: str, where: str, model: str, hint: str = "") -> UserError:
    """Return the one sentence for what would refuse every answer."""
    reason = REFUSED.get(code, NO_SUCH_MODEL)
    words = f": {said}" if said else ""
    return UserError(
        f"{where} refuses to judge with {model!r}: {reason} (HTTP {code}{words}); what is judged is kept.{hint}"
    )


def server_words(text: str) -> str:
    """Return what a server says of a failure: its message, or the beginning of its text, on one line, without keys."""
    text = text[:LONGEST_ERROR]
    body = value_of(text)
    if body is None:
        return "a web page" if text.lstrip()[:1] == "<" else _shown(text)
    error = body.get("error", body) if isinstance(body, dict) else body
    if isinstance(error, dict):
        said = [str(error[name]) for name in ("code", "message", "detail") if error.get(name) not in (None, "")]
        error = ": ".join(said) or error
    return _shown(error if isinstance(error, str) else json.dumps(error))


def _shown(said: str) -> str:
    """Return a server's words as they may be shown and stored: redacted before they are cut, or half a key is left."""
    return one_line(redact_said(said))[:SHOWN]


def error_in(body: Any) -> int | None:
    """Return the HTTP status that an error inside a reply of 200 (as proxies send them) stands for; None for none."""
    if not isinstance(body, dict):
        return None
    choices = body.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
    error = body.get("error") or first.get("error")
    if body.get("object") == "error":
        error = body
    if not error:
        return None
    if isinstance(error, dict):
        for number in (error.get("code"), error.get("status"), error.get("status_code")):
            if re.fullmatch(r"[45][0-9]{2}", str(number)):
                return int(str(number))
    return _status_of(json.dumps(error).lower())


def _status_of(words: str) -> int:
    """Return the status that the words of an error without a number stand for."""
    if NO_CREDIT.search(words):
        return 402
    if NO_MODEL.search(words):
        return 404
    if "rate_limit" in words or "rate limit" in words:
        return 429
    if "authentication" in words or "invalid_api_key" in words or "api key" in words:
        return 401
    return 400 if "invalid_request" in words or FILTERED.search(words) else 502
