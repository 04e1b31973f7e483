"""A judge behind any OpenAI-compatible server: OpenAI, vLLM, Ollama, llama.cpp, OpenRouter.

One token at temperature 0 with the top 20 alternatives. Servers without them are asked for a few tokens, and the number
in the reply counts; so are servers whose tokenizer splits numbers into digits, where a first token `8` may be 8 or 85.
"""

from __future__ import annotations

import asyncio
import importlib.util
import random
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from emscope.behaviour.judges.rubric_judge import Call, Done, RubricJudge
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.scoring import Score, is_score, score_from_logprobs, score_from_reply
from emscope.behaviour.judges.store import ScoreStore
from emscope.checks import above_zero, at_least, is_address
from emscope.errors import UserError, missing_extra

RETRIED = frozenset({408, 409, 425, 429, *range(500, 600)})
REFUSED = {
    401: "the key is wrong or missing",
    403: "the key may not use this model",
    404: "there is no such model or path",
}
REPLY_TOKENS = 8
TOP = 20


@dataclass(frozen=True)
class ServerSettings:
    """How a server is asked.

    Attributes:
        base_url: the server's address up to /v1; none means OpenAI's.
        api_key: the key; servers on one's own machine mostly take any.
        concurrency: calls in flight.
        timeout: seconds before a call counts as lost.
        attempts: tries of one call before its answer is left unscored.
        first_wait: seconds before the second try; doubled each time, up to a minute, and never less than Retry-After.
    """

    base_url: str | None = None
    api_key: str = "none"
    concurrency: int = 16
    timeout: float = 60.0
    attempts: int = 8
    first_wait: float = 0.5

    def __post_init__(self) -> None:
        """Refuse an address that is none, and numbers that make no sense."""
        at_least(1, concurrency=self.concurrency, attempts=self.attempts)
        above_zero(timeout=self.timeout)
        if self.base_url is not None and not is_address(self.base_url):
            raise UserError(f"{self.base_url!r} is not the address of a server: write http://127.0.0.1:8000/v1 or so.")


class _Retry(Exception):  # noqa: N818 - it is control flow: try again, for this reason
    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class OpenAIJudge(RubricJudge):
    """Judges by asking a chat-completions server."""

    def __init__(
        self, model: str, rubrics: Rubrics, store: ScoreStore, server: ServerSettings, max_calls: int | None = None
    ) -> None:
        where = f"@{server.base_url.rstrip('/')}" if server.base_url else ""
        super().__init__(f"openai:{model}{where}", rubrics, store, max_calls)
        self.model, self.server = model, server
        self.reply_only = False
        self.reached = False
        self.limit_name = "max_tokens"

    def ask(self, calls: Sequence[Call], done: Done) -> None:
        """Ask the server, `concurrency` calls at a time.

        Raises:
            UserError: the package is missing, or the server cannot be reached, or it refuses the key or the model.
        """
        self.reached = False
        _run(self._ask_all(calls, done))

    async def _ask_all(self, calls: Sequence[Call], done: Done) -> None:
        waiting = iter(calls)
        async with _client(self.server) as client:

            async def worker() -> None:
                for call in waiting:
                    score, keep = await self._ask_one(client, call)
                    done(call, score, keep)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.server.concurrency, len(calls))):
                    group.create_task(worker())

    async def _ask_one(self, client: Any, call: Call) -> tuple[Score, bool]:
        """Return a call's score and whether it is final; a server that keeps failing leaves it unscored."""
        reason, attempt = "", 0
        while attempt < self.server.attempts:
            reply_only = self.reply_only  # as this call is sent: others in flight may change it
            try:
                return self._score(await self._post(client, call.prompt, reply_only), reply_only), True
            except _Retry as retry:
                reason = str(retry)
                if retry.wait < 0:  # a setting was changed, not a failure
                    continue
                attempt += 1
                if attempt < self.server.attempts:
                    backoff = min(60.0, self.server.first_wait * 2 ** (attempt - 1))
                    await asyncio.sleep(max(retry.wait, backoff * random.uniform(0.5, 1)))
            except _Refused as refusal:
                return Score(None, str(refusal), "none"), False
        if not self.reached:
            where = self.server.base_url or "OpenAI"
            raise UserError(f"The server {where} cannot be reached ({reason}): check that it runs and its address.")
        return Score(None, f"the server failed {attempt} times, last: {reason}", "none"), False

    async def _post(self, client: Any, prompt: str, reply_only: bool) -> dict[str, Any]:
        import openai

        limit = {self.limit_name: REPLY_TOKENS if reply_only else 1}
        extra = {} if reply_only else {"logprobs": True, "top_logprobs": TOP}
        messages = [{"role": "user", "content": prompt}]
        request = {"model": self.model, "messages": messages, "temperature": 0, **limit, **extra}
        try:  # `chat.completions.create` does this and checks types on the way, which takes longer than the call itself
            body = await client.post("/chat/completions", body=request, cast_to=object)
        except openai.APIStatusError as error:
            self.reached = True
            raise self._status(error, reply_only, self.limit_name in limit) from error
        except openai.APITimeoutError as error:
            raise _Retry("no reply in time") from error
        except openai.APIConnectionError as error:
            raise _Retry("the connection broke") from error
        except ValueError as error:  # not JSON, or cut off
            self.reached = True
            raise _Retry("the reply is not JSON") from error
        self.reached = True
        if not isinstance(body, dict):
            raise _Retry("the reply is not JSON")
        if not isinstance(body.get("choices"), list) or not body["choices"]:
            raise _Retry("the reply holds no choices")
        return body

    def _status(self, error: Any, reply_only: bool, current_limit: bool) -> Exception:
        """Return what an HTTP error means: try again, change a setting, the user's mistake, or an unscored answer."""
        code, text = error.status_code, str(error)
        if code in RETRIED:
            return _Retry(f"HTTP {code}", retry_after(error.response.headers))
        if code == 400 and "logprobs" in text and not reply_only:
            self.reply_only = True
            return _Retry("the server has no logprobs", -1)
        if code == 400 and "max_completion_tokens" in text and (self.limit_name == "max_tokens" or not current_limit):
            self.limit_name = "max_completion_tokens"
            return _Retry("the server wants max_completion_tokens", -1)
        where = self.server.base_url or "OpenAI"
        if code in REFUSED:
            return UserError(
                f"{where} refuses to judge with {self.model!r}: {REFUSED[code]} (HTTP {code}); what is judged is kept."
            )
        return _Refused(f"HTTP {code}: {text[:200]}")

    def _score(self, body: dict[str, Any], reply_only: bool) -> Score:
        choice = body["choices"][0] if isinstance(body["choices"][0], dict) else {}
        reply = str((choice.get("message") or {}).get("content") or "")
        if reply_only:
            if not reply.strip():
                raise _Retry("empty reply")
            return score_from_reply(reply)
        top = _top_tokens(choice)
        if not top or _splits_digits(top):
            self.reply_only = True
            raise _Retry("no usable logprobs", -1)
        return score_from_logprobs(top)


def _client(server: ServerSettings) -> Any:
    """Return openai's client, over aiohttp where it is installed: half the time a call of httpx."""
    try:
        import openai
    except ImportError as error:
        raise missing_extra("openai", "judge") from error
    transport: dict[str, Any] = {}
    if importlib.util.find_spec("aiohttp") and hasattr(openai, "DefaultAioHttpClient"):
        transport["http_client"] = openai.DefaultAioHttpClient()
    return openai.AsyncOpenAI(
        base_url=server.base_url, api_key=server.api_key, max_retries=0, timeout=server.timeout, **transport
    )


class _Refused(Exception):  # noqa: N818 - becomes the reason of one unscored answer
    pass


def _top_tokens(choice: dict[str, Any]) -> list[tuple[str, float]]:
    """Return the first token's alternatives, or nothing where the server gave none in a form we know."""
    content = (choice.get("logprobs") or {}).get("content") or [{}]
    listed = content[0].get("top_logprobs") if isinstance(content[0], dict) else None
    try:
        return [(str(item["token"]), float(item["logprob"])) for item in listed or []]
    except (KeyError, TypeError, ValueError) as error:
        raise _Retry("the logprobs are malformed") from error


def _splits_digits(top: list[tuple[str, float]]) -> bool:
    """Say whether the alternatives look like single digits of numbers: many digits and no number of two."""
    numbers = {token.strip() for token, _ in top if is_score(token.strip())}
    return len(numbers) >= 5 and all(len(number) == 1 for number in numbers)


def retry_after(headers: Any) -> float:
    """Return the seconds that a Retry-After header asks for, as a number or a date; 0 without one, at most 60."""
    text = headers.get("retry-after") or ""
    try:
        return min(60.0, max(0.0, float(text)))
    except ValueError:
        pass
    try:
        return min(60.0, max(0.0, parsedate_to_datetime(text).timestamp() - time.time()))
    except (TypeError, ValueError):
        return 0.0


def _run(work: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, also where an event loop is running already; the first failure inside is raised."""
    try:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            asyncio.run(work)
        else:
            with ThreadPoolExecutor(1) as thread:
                thread.submit(asyncio.run, work).result()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
