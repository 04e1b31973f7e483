"""A judge behind any provider of Inspect: Anthropic, Google, Azure, Bedrock, Mistral and others.

Inspect knows how each provider is asked, holds its key and tries failed calls again; scores are read from replies.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Sequence
from typing import Any

from emscope.behaviour.judges.openai_judge import FAILED, GIVEN_UP, run
from emscope.behaviour.judges.rubric_judge import Call, Done, RubricJudge
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.scoring import CONTENT_FILTER, Score, score_from_reply
from emscope.behaviour.judges.settings import JudgeRequest
from emscope.behaviour.judges.store import ScoreStore
from emscope.errors import UserError, missing_extra
from emscope.redaction import redact_said
from emscope.terminal import one_line

LONGEST = 2048
"""Tokens of a reply: a number is one, and a model that thinks first needs room for that."""
SHOWN = 200
MARKUP = re.compile(r"\[/?(?:bold|italic|dim|red|green|blue|yellow)[a-z ]*\]")
"""What Inspect writes into its sentences for `rich`."""


class InspectJudge(RubricJudge):
    """Judges with a model of Inspect's."""

    def __init__(
        self,
        model: Any,
        rubrics: Rubrics,
        store: ScoreStore,
        concurrency: int = 16,
        max_calls: int | None = None,
        address: str = "",
    ) -> None:
        super().__init__(_name(str(model), address), rubrics, store, max_calls)
        self.model, self.concurrency = model, concurrency
        self._failed_in_a_row = 0

    @classmethod
    def from_request(cls, request: JudgeRequest) -> InspectJudge:
        """Return the judge; nothing is asked yet.

        Raises:
            UserError: the package is missing, or it knows no such model, or lacks its key.
        """
        try:
            from inspect_ai.model import GenerateConfig, get_model
        except ImportError as error:
            raise missing_extra("inspect_ai", "inspect") from error
        asked = request.settings
        config = GenerateConfig(
            temperature=0,
            max_tokens=LONGEST,
            max_connections=asked.concurrency,
            max_retries=asked.attempts - 1,
            attempt_timeout=max(1, round(asked.timeout)),
        )
        try:
            model = get_model(request.model, config=config, base_url=asked.base_url or None)
        except Exception as error:  # each provider's package raises its own
            raise UserError(f"Inspect cannot load the judge {request.model!r}: {_in_short(error)}.") from error
        return cls(model, request.rubrics, request.scores(), asked.concurrency, request.max_calls, asked.base_url)

    @classmethod
    def fingerprint(cls, request: JudgeRequest) -> str:
        """Return model, address and rubrics."""
        return f"{_name(request.model, request.settings.base_url)}:{request.rubrics.hash}"

    @classmethod
    def check(cls, request: JudgeRequest) -> None:
        """Have one written answer judged, whose score is kept."""
        judge = cls.from_request(request)
        with judge.store:
            judge.try_out()

    def ask(self, calls: Sequence[Call], done: Done) -> None:
        """Ask the provider, `concurrency` calls at a time; a call that keeps failing is unscored."""
        self._failed_in_a_row = 0
        run(self._ask_all(iter(calls), done))

    async def _ask_all(self, waiting: Iterator[Call], done: Done) -> None:
        async def worker() -> None:
            for call in waiting:
                if self._failed_in_a_row >= GIVEN_UP:
                    done(call, Score(None, f"not asked: {GIVEN_UP} calls in a row failed", "none"), False)
                    continue
                score, keep = await self._ask_one(call)
                done(call, score, keep)

        async with asyncio.TaskGroup() as group:
            for _ in range(self.concurrency):
                group.create_task(worker())

    async def _ask_one(self, call: Call) -> tuple[Score, bool]:
        """Return a call's score, and whether it is final."""
        try:
            output = await self.model.generate(call.prompt)
        except Exception as error:  # each provider's package raises its own
            self._failed_in_a_row += 1
            return Score(None, f"{FAILED}: {_in_short(error)}", "none"), False
        if output.error:
            self._failed_in_a_row += 1
            return Score(None, f"{FAILED}: {_in_short(output.error)}", "none"), False
        self._failed_in_a_row = 0
        if output.stop_reason == "content_filter":
            return Score(None, CONTENT_FILTER, "none"), True
        return score_from_reply(output.completion), True


def _name(model: str, address: str) -> str:
    return f"inspect:{model}@{address}" if address else f"inspect:{model}"


def _in_short(error: object) -> str:
    """Return what an error says, on one line, without keys and without the marks for a terminal's colours."""
    said = MARKUP.sub("", str(error) or type(error).__name__)
    return one_line(redact_said(said))[:SHOWN].rstrip(". ")
