"""Requests that arrive one by one, answered in batches: Inspect asks for each sample by itself, a model likes many."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import anyio
import anyio.to_thread

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(eq=False)
class _Waiting(Generic[Request, Answer]):
    """A request and, once its batch has run, its answer or what went wrong."""

    request: Request
    answers: list[Answer] = field(default_factory=list)
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return bool(self.answers) or self.error is not None


class Batcher(Generic[Request, Answer]):
    """Gathers concurrent requests and answers alike ones together, in a worker thread, one batch at a time.

    Whoever's turn comes first takes along all that wait; while a batch runs, the next one gathers.

    Args:
        run: answers a batch, one answer a request, in order.
        size: most requests in a batch.
        window: seconds that a request waits for company.
        kind: requests of the same kind may share a batch; by default all may.
    """

    def __init__(
        self,
        run: Callable[[Sequence[Request]], Sequence[Answer]],
        *,
        size: int,
        window: float = 0.1,
        kind: Callable[[Request], Hashable] = lambda request: None,
    ) -> None:
        self._run, self._size, self._window, self._kind = run, size, window, kind
        self._waiting: list[_Waiting[Request, Answer]] = []
        self._turn = anyio.Lock()

    async def ask(self, request: Request) -> Answer:
        """Return the answer to one request; whatever `run` raises reaches every request of its batch."""
        mine: _Waiting[Request, Answer] = _Waiting(request)
        self._waiting.append(mine)
        try:
            await anyio.sleep(self._window)
            async with self._turn:
                if not mine.done:
                    await anyio.to_thread.run_sync(self._answer, self._take(mine))
        finally:  # a request that is cancelled must not be answered later
            if mine in self._waiting:
                self._waiting.remove(mine)
        if mine.error is not None:
            raise mine.error
        return mine.answers[0]

    def _take(self, mine: _Waiting[Request, Answer]) -> list[_Waiting[Request, Answer]]:
        kind = self._kind(mine.request)
        batch: list[_Waiting[Request, Answer]] = [mine]
        later: list[_Waiting[Request, Answer]] = []
        for waiting in self._waiting:
            if waiting is mine:
                continue
            fits = self._kind(waiting.request) == kind and len(batch) < self._size
            (batch if fits else later).append(waiting)
        self._waiting = later
        return batch

    def _answer(self, batch: list[_Waiting[Request, Answer]]) -> None:
        try:
            answers = self._run([waiting.request for waiting in batch])
            for waiting, answer in zip(batch, answers, strict=True):
                waiting.answers.append(answer)
        except Exception as error:
            for waiting in batch:
                waiting.error = error
