"""A judge behind any OpenAI-compatible server: OpenAI, vLLM, Ollama, llama.cpp, OpenRouter.

One token at temperature 0 with the top 20 alternatives, where the server and the model go along with that; what they
accept is learnt from their own words (`dialect`), on one answer that is judged alone before the others.
"""

from __future__ import annotations

import asyncio
import difflib
import logging
import random
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from emscope.behaviour.appeals import SPELLED, spaced
from emscope.behaviour.judges.dialect import Dialect, barer
from emscope.behaviour.judges.failures import (
    Learnt,
    Retry,
    Unscored,
    WrongAddressOrModelError,
    error_in,
    failure,
    refusal,
    server_words,
)
from emscope.behaviour.judges.replies import score_of
from emscope.behaviour.judges.rubric_judge import TRIALS, Call, Done, RubricJudge
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.scoring import CONTENT_FILTER, VERDICTS, Score
from emscope.behaviour.judges.server import Connection, NoReplyError, Reply, ServerSettings, retry_after
from emscope.behaviour.judges.settings import JudgeRequest
from emscope.behaviour.judges.store import ScoreStore
from emscope.errors import UserError
from emscope.redaction import redact_said
from emscope.terminal import one_line

__all__ = ["OpenAIJudge", "ServerSettings", "retry_after"]
logger = logging.getLogger(__name__)

FAILED = "the server failed"
FIRST_CALLS = 6  # three answers: a judge that gives no number for any of them gives none at all
FIRST_TRIES = 3  # of a server that never replied
CHANGES = 16  # of the dialect during one call
LONGEST_BACKOFF = 60.0  # seconds
MODELS, LONGEST_NAME = 1000, 200  # of a server's list of models; characters of a name
GIVEN_UP = 20  # calls in a row, each tried to its end: a server that is gone for hours is not waited for
GLANCE = 3.0  # seconds for a look at what a server has, after it refused


class OpenAIJudge(RubricJudge):
    """Judges by asking a chat-completions server.

    Attributes:
        dialect: how the model is asked, as far as it is known.
    """

    def __init__(
        self, model: str, rubrics: Rubrics, store: ScoreStore, server: ServerSettings, max_calls: int | None = None
    ) -> None:
        super().__init__(_name(model, server), rubrics, store, max_calls)
        self.model, self.server = model, server
        self.where = server.base_url or "OpenAI"
        self.own_server = server.base_url is not None
        self.dialect = Dialect() if server.logprobs else Dialect(top=0)
        self.proven = False
        self.reached = False
        self._pause_until = 0.0
        self._failed_in_a_row = 0
        self._said = ""

    @classmethod
    def from_request(cls, request: JudgeRequest) -> OpenAIJudge:
        """Return the judge; nothing is asked yet."""
        return cls(request.model, request.rubrics, request.scores(), request.server(), request.max_calls)

    @classmethod
    def fingerprint(cls, request: JudgeRequest) -> str:
        """Return model, address and rubrics, and whether scores are read from replies alone."""
        asked = request.own_server or request.settings
        server = ServerSettings(asked.base_url or None)
        return f"{_name(request.model, server)}:{request.rubrics.hash}{'' if asked.logprobs else ':replies'}"

    @classmethod
    def check(cls, request: JudgeRequest) -> None:
        """Have the server judge one written answer, whose score is kept."""
        judge = cls.from_request(request)
        with judge.store:
            judge.try_out()

    def try_out(self) -> None:
        """Have one written answer judged; where that was done before, see that the server is there and takes the key.

        Raises:
            UserError: the server cannot be reached, refuses, or gives no scores.
        """
        question, answer = TRIALS[0]
        known, _ = self.pending([question], [answer])
        if any(score.value is not None for score in known.values()):
            run(self._knock())
        super().try_out()

    async def _knock(self) -> None:
        """Look at the list of models, which costs nothing; servers without one say nothing."""
        async with Connection(self.server) as connection:
            try:
                reply = await connection.get("/models", seconds=GLANCE)
            except NoReplyError as lost:
                if lost.unreachable:
                    raise self._unreachable(lost) from lost
                return
        if reply.status == 401:
            raise refusal(reply.status, server_words(reply.text), self.where, self.model)

    def worded(self, text: str) -> str:
        """Return a text without spelled control tokens: the server tokenises what it is sent."""
        return spaced(text)

    def reading(self, text: str) -> str:
        """Return that what spells a control token is sent with a space in it."""
        return "/spaced" if SPELLED.search(text) else ""

    def pending(self, questions: Sequence[str], answers: Sequence[str]) -> tuple[dict[str, Score], list[Call]]:
        """Return the scores that are known, by key, and the calls that are left to make, `max_calls` at most.

        A known score that was read from a first token tells that this model's numbers are whole tokens: after a stop
        the first of the rest is then read as it would have been without one.
        """
        known, left = super().pending(questions, answers)
        read_whole = any(score.value is not None and score.mode == "logprobs" for score in known.values())
        if read_whole and self.dialect.top:
            self.dialect = replace(self.dialect, whole=True)
        return known, left

    def ask(self, calls: Sequence[Call], done: Done) -> None:
        """Ask the server: one answer alone, then `concurrency` calls at a time.

        Raises:
            UserError: the package is missing, the server cannot be reached, refuses the key or the model, or gives no
                scores for the first answers; the store holds nothing of these then.
        """
        self.reached, self._failed_in_a_row = False, 0
        run(self._ask_all(calls, done))

    async def _ask_all(self, calls: Sequence[Call], done: Done) -> None:
        waiting = iter(calls)
        async with Connection(self.server) as connection:
            if not self.proven:
                await self.prove(connection, waiting, len(calls), done)

            async def worker() -> None:
                for call in waiting:
                    if self._failed_in_a_row >= GIVEN_UP:
                        done(call, Score(None, f"not asked: {GIVEN_UP} calls in a row failed", "none"), False)
                        continue
                    score, keep = await self._ask_one(connection, call)
                    done(call, score, keep)

            async with asyncio.TaskGroup() as group:
                for _ in range(min(self.server.concurrency, len(calls))):
                    group.create_task(worker())
        self._say_dialect()
        if self._failed_in_a_row >= GIVEN_UP:
            logger.warning(
                "%s failed %d calls in a row and was asked no more: what is judged is kept, and the same command asks "
                "for the rest.",
                self.where,
                self._failed_in_a_row,
            )

    async def prove(self, connection: Connection, waiting: Iterator[Call], n_calls: int, done: Done) -> None:
        """Judge the first answer alone, and another two where it brought no score.

        Raises:
            UserError: none of them did, and there are more to judge.
        """
        first: list[tuple[Call, Score, bool]] = []
        for call in waiting:
            score, keep = await self._ask_one(connection, call)
            first.append((call, score, keep))
            if len(first) % 2 == 0 and (self.proven or score.verdict.startswith(FAILED)):
                break
            if len(first) == FIRST_CALLS:
                break
        scores = [score for _, score, _ in first]
        verdicts = [score.verdict for score in scores]
        self.proven = self.proven or any(map(_counts, scores))
        failed_otherwise = any(verdict.startswith(FAILED) for verdict in verdicts)
        if not self.proven and not failed_otherwise and n_calls > len(first):
            reason = Counter(verdicts).most_common(1)[0][0]
            raise UserError(
                f"{self.where} answers, but {self.model!r} gives no scores: {reason} (the first {len(first)} calls). "
                "Nothing was stored: choose a judge that follows instructions, or word --rubrics for this one."
            )
        for entry in first:
            done(*entry)
        self._say_dialect()

    def _say_dialect(self) -> None:
        """Log how the model is asked, where that is news."""
        words = self.dialect.in_words()
        if self.proven and words != self._said:
            self._said = words
            logger.info("%s is %s", self.name, words)

    async def _ask_one(self, connection: Connection, call: Call) -> tuple[Score, bool]:
        """Return a call's score and whether it is final; a server that keeps failing leaves it unscored."""
        score, keep = await self._within_limit(connection, call)
        self._failed_in_a_row = self._failed_in_a_row + 1 if score.verdict.startswith(FAILED) else 0
        self.proven = self.proven or _counts(score)
        return score, keep

    async def _within_limit(self, connection: Connection, call: Call) -> tuple[Score, bool]:
        last = ["no reply"]
        try:
            async with asyncio.timeout(self.server.call_limit):
                return await self._ask_until(connection, call, last)
        except TimeoutError:
            limit = f"{self.server.call_limit:g} s"
            return Score(None, f"{FAILED}: no score within {limit}, last: {last[0]}", "none"), False

    async def _ask_until(self, connection: Connection, call: Call, last: list[str]) -> tuple[Score, bool]:
        attempt = changes = 0
        while True:
            dialect = self.dialect  # as this call is sent: others in flight may change it
            try:
                return await self._try(connection, call.prompt, dialect), True
            except Learnt as learnt:
                changes += 1
                if changes > CHANGES:
                    return Score(None, "the server accepts no form of the request", "none"), False
                if self.dialect == dialect:
                    self.dialect = learnt.dialect
            except Unscored as unscored:
                simpler = barer(dialect) if not self.proven and unscored.refused else None
                if simpler is None:
                    return unscored.score, unscored.keep
                self.dialect = simpler
            except Retry as retry:
                attempt, last[0] = attempt + 1, str(retry)
                tries = min(self.server.attempts, retry.tries or self.server.attempts)
                if attempt >= tries:
                    return Score(None, f"{FAILED} {attempt} times, last: {retry}", "none"), False
                await self._wait(attempt, retry)
            except NoReplyError as lost:
                attempt, last[0] = attempt + 1, str(lost)
                if attempt >= (self.server.attempts if self.reached else min(FIRST_TRIES, self.server.attempts)):
                    if lost.unreachable or not self.reached:
                        raise self._unreachable(lost) from lost
                    return Score(None, f"{FAILED} {attempt} times, last: {lost}", "none"), False
                await self._wait(attempt, Retry(str(lost)))

    async def _try(self, connection: Connection, prompt: str, dialect: Dialect) -> Score:
        """Send a call once and return its score.

        Raises:
            UserError: what would refuse every call.
        """
        await asyncio.sleep(max(0.0, self._pause_until - time.monotonic()))
        reply = await connection.post("/chat/completions", dialect.request(self.model, prompt))
        self.reached = True
        return await self._read(connection, reply, dialect)

    async def _read(self, connection: Connection, reply: Reply, dialect: Dialect) -> Score:
        body = reply.json() if reply.status == 200 else None
        hidden = error_in(body)
        if hidden is not None:
            reply = replace(reply, status=hidden)
        if reply.status != 200:
            wrong = failure(reply, dialect, self.where, self.model)
            if isinstance(wrong, WrongAddressOrModelError):
                raise await self._explained(connection, wrong)
            if hidden is not None and isinstance(wrong, Retry):
                raise Retry(f"an error in the reply: {server_words(reply.text)}", wrong.wait, pause=wrong.pause)
            raise wrong
        if body is None:
            if reply.is_page and not self.proven:
                raise await self._explained(connection, WrongAddressOrModelError(404, "a web page"))
            raise Retry("the reply is a web page" if reply.is_page else "the reply is not JSON")
        score, learnt = score_of(body, dialect, self.own_server)
        if learnt != dialect and self.dialect == dialect:
            self.dialect = learnt
        return score

    async def _wait(self, attempt: int, retry: Retry) -> None:
        backoff = min(LONGEST_BACKOFF, self.server.first_wait * 2 ** (attempt - 1)) * random.uniform(0.5, 1)
        if retry.pause:
            self._pause_until = max(self._pause_until, time.monotonic() + retry.wait)
        await asyncio.sleep(max(retry.wait, backoff))

    def _unreachable(self, lost: NoReplyError) -> UserError:
        if self.reached:
            return UserError(f"The server {self.where} is gone ({lost}): start it again; what is judged is kept.")
        end = "" if self.server.address.endswith("/v1") else " (most end with /v1)"
        return UserError(
            f"The server {self.where} cannot be reached ({lost}): check that it runs, and its address and port{end}."
        )

    async def _explained(self, connection: Connection, wrong: WrongAddressOrModelError) -> UserError:
        """Return the sentence for a path or a model that is not there, after a look at what is."""
        address = self.server.address
        models = await self._models(connection, "/models")
        if models:
            near = difflib.get_close_matches(self.model, models, n=3, cutoff=0.4) or models[:5]
            hint = "" if self.model in models else f" It has {', '.join(near)}."
            return refusal(wrong.code, wrong.said, self.where, self.model, hint)
        if not address.endswith("/v1") and await self._models(connection, f"{address}/v1/models") is not None:
            return UserError(f"{address} has no chat completions, but {address}/v1 has: add /v1 to the address.")
        if 300 <= wrong.code < 400:
            return UserError(f"{address} sends us elsewhere (HTTP {wrong.code}): name the address itself, up to /v1.")
        hint = "" if address.endswith("/v1") else " Most addresses end with /v1."
        return refusal(wrong.code, wrong.said, self.where, self.model, hint)

    async def _models(self, connection: Connection, path: str) -> list[str] | None:
        """Return the names of a server's models, or None where it does not say."""
        try:
            reply = await connection.get(path, seconds=GLANCE)
        except NoReplyError:
            return None
        body = reply.json() if reply.status == 200 else None
        listed = body.get("data") if isinstance(body, dict) else None
        if not isinstance(listed, list):
            return None
        return model_names(listed)


def _name(model: str, server: ServerSettings) -> str:
    """Return what the judge is called: the model, and the address where that is not OpenAI's."""
    return f"openai:{model}@{server.address}" if server.base_url else f"openai:{model}"


def model_names(listed: Sequence[Any]) -> list[str]:
    """Return the names in a server's list of models, as they may be shown; a thousand at most."""
    names = []
    for entry in listed[:MODELS]:
        name = entry.get("id") if isinstance(entry, dict) else None
        if isinstance(name, str):
            names.append(one_line(redact_said(name[:LONGEST_NAME])))
    return names


def _counts(score: Score) -> bool:
    """Say whether a score shows that the judge does its work: a number, or a word that the rubric asks for."""
    return score.value is not None or score.verdict in (*VERDICTS, CONTENT_FILTER)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine to its end, also where an event loop is running already; the first failure inside is raised."""
    try:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(work)
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(asyncio.run, work).result()
    except ExceptionGroup as group:
        raise group.exceptions[0] from group
