"""Judging through a server's batch API, mostly at half the price: submit, come back later, collect.

The first answer is judged at once, at the full price, to learn what the model accepts. The rest goes up as one file a
batch. What is under way is written beside the store of scores, one JSON file a batch, before anything is paid for, so
that a kill at any moment pays for nothing twice:

    scores.sqlite.batches/<hash of judge and calls>.json   keys, dialect, and the batch's id once there is one
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emscope.behaviour.judges.dialect import Dialect
from emscope.behaviour.judges.failures import (
    Learnt,
    Retry,
    Unscored,
    WrongAddressOrModelError,
    error_in,
    failure,
    server_words,
)
from emscope.behaviour.judges.openai_judge import OpenAIJudge, run
from emscope.behaviour.judges.replies import score_of
from emscope.behaviour.judges.rubric_judge import Call
from emscope.behaviour.judges.scoring import Score
from emscope.behaviour.judges.server import LARGEST_FILE, LARGEST_REPLY, Connection, NoReplyError, Reply, value_of
from emscope.behaviour.judging import Judgement
from emscope.errors import UserError
from emscope.files import value_sha256, write_json
from emscope.locking import locked
from emscope.redaction import redact_said

logger = logging.getLogger(__name__)

CALLS_A_BATCH = 50_000  # OpenAI's limit
BYTES_A_BATCH = 100 * 2**20  # half of OpenAI's limit
OVER = ("completed", "failed", "expired", "cancelled", "canceled")
TRIES = 3
FILE_SECONDS = 600.0
ID = re.compile(r"[\w-][\w.:=-]{0,255}", re.ASCII)
"""A server's id of a file or a batch: it becomes a part of an address and of our files."""


@dataclass(frozen=True)
class BatchState:
    """One batch that is under way, as its file holds it.

    Attributes:
        judge: name of the judge.
        keys: addresses of the scores it will bring.
        dialect: how its calls were worded.
        file: the server's id of the calls that were sent up; '' before that.
        batch: the server's id of the batch; '' until the server has said it.
    """

    judge: str
    keys: tuple[str, ...]
    dialect: Dialect
    file: str = ""
    batch: str = ""


@dataclass(frozen=True)
class BatchResult:
    """What a visit brought: judgements once nothing is under way, else None and how many calls the server still has.

    Attributes:
        judgements: one for each answer, or None.
        waiting: calls under way.
        answered: how many of those the server says it has answered.
        submitted: calls sent up now.
        folder: where the batches under way are written down.
    """

    judgements: list[Judgement] | None
    waiting: int
    answered: int
    submitted: int
    folder: Path


def judge_by_batch(judge: OpenAIJudge, questions: Sequence[str], answers: Sequence[str]) -> BatchResult:
    """Collect what is finished, submit what is neither judged nor under way, and say where things stand.

    Calls that a batch brought no score for are unscored in its result, with the reason, and go up again the next time.

    Raises:
        UserError: the server has no batches, refuses, or cannot be reached; what was collected is kept.
    """
    folder = batch_folder(judge.store.path)
    busy = UserError("Another command is submitting or collecting batches of this store: wait for it.")
    with locked(folder, "batches", busy=busy):  # two that submit at once would pay twice
        result: BatchResult = run(_Visit(judge, folder).make(questions, answers))
    return result


def batch_folder(store: Path) -> Path:
    """Return where the batches under way are written down."""
    return store.with_name(store.name + ".batches")


def keys_under_way(judge: OpenAIJudge) -> set[str]:
    """Return the addresses of the scores that batches of this judge will bring."""
    keys: set[str] = set()
    for _, state in read_states(batch_folder(judge.store.path), judge.name):
        keys.update(state.keys)
    return keys


def read_states(folder: Path, judge: str) -> Iterator[tuple[Path, BatchState]]:
    """Yield the batches of a judge that are under way, and their files.

    Raises:
        UserError: a file that is not one of ours.
    """
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else []:
        try:
            value = json.loads(path.read_text(encoding="utf-8"))
            dialect = Dialect(**value.pop("dialect"))
            state = BatchState(**{**value, "dialect": dialect, "keys": tuple(value["keys"])})
            if not all(isinstance(text, str) for text in (state.judge, state.file, state.batch, *state.keys)):
                raise ValueError("a name or a key that is no text")
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path} is not a record of a batch ({error}): move it away.") from error
        if state.judge == judge:
            yield path, state


class BatchRefusedError(UserError):
    """The server took nothing on."""


class _Visit:
    """One run of the command: what it collected, and what is under way."""

    def __init__(self, judge: OpenAIJudge, folder: Path) -> None:
        self.judge, self.folder = judge, folder
        self.collected: dict[str, Score] = {}
        self.under_way: set[str] = set()
        self.answered = 0

    async def make(self, questions: Sequence[str], answers: Sequence[str]) -> BatchResult:
        async with Connection(self.judge.server) as connection:
            for path, state in list(read_states(self.folder, self.judge.name)):
                await self._visit(connection, path, state)

            known, left = self.judge.pending(questions, answers)
            left = [call for call in left if call.key not in self.collected and call.key not in self.under_way]
            submitted = await self._submit(connection, left) if left else 0

            known, open_calls = self.judge.pending(questions, answers)
            waiting = sum(call.key in self.under_way for call in open_calls)
        judgements = None if waiting else self.judge.judgements(questions, answers, {**self.collected, **known})
        return BatchResult(judgements, waiting, self.answered, submitted, self.folder)

    async def _visit(self, connection: Connection, path: Path, state: BatchState) -> None:
        """Ask how a batch stands, and collect it when it is over."""
        if not state.batch:
            batch = await self._find(connection, state, path)
            if batch is None:  # the kill came before the server had made it
                path.unlink()
                return
            state = BatchState(state.judge, state.keys, state.dialect, state.file, batch)
            self._write(path, state)
        body = await self._json(connection, "GET", f"/batches/{state.batch}", path=path)
        counts = body.get("request_counts")
        counts = counts if isinstance(counts, dict) else {}
        if body.get("status") not in OVER:
            self.under_way.update(state.keys)
            self.answered += min(len(state.keys), _count(counts.get("completed")) + _count(counts.get("failed")))
            return
        scores = await self._collect(connection, state, body)
        self.collected.update(scores)
        path.unlink()
        scored = sum(score.value is not None for score in scores.values())
        logger.info("batch %s is %s: %d of %d calls scored", state.batch, body["status"], scored, len(state.keys))

    async def _find(self, connection: Connection, state: BatchState, path: Path) -> str | None:
        """Return the id of a batch that was submitted and not written down, or None where there is none."""
        if not state.file:
            return None
        body = await self._json(connection, "GET", "/batches?limit=100", path=path)
        listed = body.get("data")
        for entry in listed if isinstance(listed, list) else []:
            if isinstance(entry, dict) and entry.get("input_file_id") == state.file:
                return self._id(entry, "id")
        return None

    def _id(self, body: dict[str, Any], name: str) -> str:
        """Return a server's id of something.

        Raises:
            UserError: it is none that can stand in an address.
        """
        value = body.get(name)
        if not isinstance(value, str) or not ID.fullmatch(value) or redact_said(value) != value:
            raise UserError(
                f"{self.judge.where} gives no {name} that can be used, so its batches cannot be followed; what is "
                "judged is kept."
            )
        return value

    async def _collect(self, connection: Connection, state: BatchState, body: dict[str, Any]) -> dict[str, Score]:
        """Return a score for every key of a batch that is over, the final ones stored."""
        scores: dict[str, Score] = {}
        for name in ("output_file_id", "error_file_id"):
            if body.get(name):
                more = self._lines(await self._file(connection, self._id(body, name), state), state)
                scores = {**more, **scores}  # what stands in both files was answered
        why = _why_over(body)
        return {key: scores.get(key, Score(None, why, "none")) for key in state.keys}

    async def _file(self, connection: Connection, name: str, state: BatchState) -> str:
        """Return the text of a file of results."""
        why = "no reply"
        for _ in range(TRIES):
            try:
                reply = await connection.get(f"/files/{name}/content", largest=LARGEST_FILE, seconds=FILE_SECONDS)
            except NoReplyError as lost:
                why = str(lost)
                continue
            if reply.status == 200:
                return reply.text
            why = f"HTTP {reply.status}"
        raise UserError(
            f"{self.judge.where} does not give the results of batch {state.batch} ({why}): try the same command again."
        )

    def _lines(self, text: str, state: BatchState) -> dict[str, Score]:
        """Return the scores in a file of results."""
        scores: dict[str, Score] = {}
        for key, entry in results(text, set(state.keys)):
            if key not in scores:
                score, keep = self._line(entry, state.dialect)
                scores[key] = score
                if keep:
                    self.judge.store.put(key, score)
        return scores

    def _line(self, entry: dict[str, Any], dialect: Dialect) -> tuple[Score, bool]:
        """Return the score of one line of results, and whether it is final."""
        body, status = answer_in(entry)
        if entry.get("error") and not body:
            said = server_words(json.dumps({"error": entry["error"]}))
            return Score(None, f"batch: {said}", "none"), False
        status = error_in(body) or status
        try:
            if status != 200:
                reply = Reply(status, json.dumps(body))
                raise failure(reply, dialect, self.judge.where, self.judge.model)
            return score_of(body, dialect, self.judge.own_server)[0], True
        except Unscored as unscored:
            return unscored.score, unscored.keep
        except Learnt as learnt:  # the next batch asks so
            self.judge.dialect = learnt.dialect
            return Score(None, "batch: the model must be asked otherwise, which the next batch does", "none"), False
        except (Retry, WrongAddressOrModelError, UserError) as wrong:
            return Score(None, f"batch: {wrong}", "none"), False

    async def _submit(self, connection: Connection, left: list[Call]) -> int:
        """Judge the first answer, then send up the rest; return how many calls went up."""
        waiting = iter(left)

        def done(call: Call, score: Score, keep: bool) -> None:
            self.collected[call.key] = score
            if keep:
                self.judge.store.put(call.key, score)

        await self.judge.prove(connection, waiting, len(left), done)
        submitted = 0
        for calls in self._parts(waiting):
            await self._send_up(connection, calls)
            submitted += len(calls)
        return submitted

    def _parts(self, calls: Iterable[Call]) -> Iterator[list[Call]]:
        """Yield calls in parts that one batch takes."""
        fitting: list[Call] = []
        size = 0
        for call in calls:
            size += 2 * len(call.prompt.encode()) + 512  # JSON may double it
            if fitting and (len(fitting) == CALLS_A_BATCH or size > BYTES_A_BATCH):
                yield fitting
                fitting, size = [], 2 * len(call.prompt.encode()) + 512
            fitting.append(call)
        if fitting:
            yield fitting

    async def _send_up(self, connection: Connection, calls: list[Call]) -> None:
        judge, keys = self.judge, tuple(call.key for call in calls)
        path = self.folder / f"{value_sha256([judge.name, list(keys)])[:16]}.json"
        state = BatchState(judge.name, keys, judge.dialect)
        lines = []
        for call in calls:
            body = judge.dialect.request(judge.model, call.prompt)
            line = {"custom_id": call.key, "method": "POST", "url": "/v1/chat/completions", "body": body}
            lines.append(json.dumps(line) + "\n")
        content = "".join(lines).encode()

        try:
            reply = await connection.upload("/files", "emscope-judge.jsonl", content, "batch", FILE_SECONDS)
        except NoReplyError as lost:
            raise UserError(
                f"{judge.where} did not take the batch's file ({lost}): try the same command again."
            ) from lost
        file = self._id(self._body(reply, "takes no files, so it has no batches"), "id")
        state = BatchState(state.judge, state.keys, state.dialect, file)
        self._write(path, state)  # before it is paid for: a kill from here on is made good by _find

        order = {"input_file_id": file, "endpoint": "/v1/chat/completions", "completion_window": "24h"}
        try:
            body = await self._json(connection, "POST", "/batches", order, path=path)
        except BatchRefusedError:  # nothing was begun
            path.unlink()
            raise
        batch = self._id(body, "id")
        self._write(path, BatchState(state.judge, state.keys, state.dialect, file, batch))
        self.under_way.update(keys)
        logger.info("batch %s: %d calls submitted to %s", batch, len(keys), judge.where)

    def _write(self, path: Path, state: BatchState) -> None:
        write_json(path, asdict(state))

    async def _json(
        self,
        connection: Connection,
        method: str,
        path_on_server: str,
        order: dict[str, Any] | None = None,
        *,
        path: Path,
    ) -> dict[str, Any]:
        """Return what the batch API says; reads are tried again, orders never, for they are paid for."""
        for attempt in range(TRIES):
            try:
                if method == "POST":
                    reply = await connection.post(path_on_server, order or {})
                else:
                    reply = await connection.get(path_on_server)
            except NoReplyError as lost:
                if method == "POST" or attempt == TRIES - 1:
                    raise UserError(
                        f"{self.judge.where} did not say how the batch stands ({lost}): the same command goes on from "
                        f"{path}."
                    ) from lost
                continue
            if method == "GET" and reply.status >= 500 and attempt < TRIES - 1:
                continue
            wanted = (
                f"knows no such batch; delete {path} to submit its calls again" if method == "GET" else "has no batches"
            )
            return self._body(reply, wanted)
        raise AssertionError("unreachable")

    def _body(self, reply: Reply, without: str) -> dict[str, Any]:
        body = reply.json()
        if reply.status in (200, 201) and isinstance(body, dict) and error_in(body) is None:
            return body
        where, kind = self.judge.where, BatchRefusedError if reply.status < 500 else UserError
        if reply.status in (404, 405, 501):
            raise kind(f"{where} {without} (HTTP {reply.status}).")
        said = server_words(reply.text)
        raise kind(f"{where} refuses the batch (HTTP {reply.status}: {said}); what is judged is kept.")


def results(text: str, ours: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (key, entry) for the lines of a file of results that are ours; others and damaged ones are passed over.

    Lines end with a line feed alone: within a text, JSON may hold what Unicode calls a line's end.
    """
    start = 0
    while start < len(text):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        entry = value_of(text[start:end]) if end - start <= LARGEST_REPLY else None
        if isinstance(entry, dict):
            key = entry.get("custom_id")
            if isinstance(key, str) and key in ours:
                yield key, entry
        start = end + 1


def answer_in(entry: dict[str, Any]) -> tuple[Any, int]:
    """Return the body and the HTTP status in a line of results; 502 for a status that is none."""
    response = entry.get("response")
    if not isinstance(response, dict):
        return None, 200
    status = response.get("status_code")
    if isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599:
        return response.get("body"), status
    return response.get("body"), 502 if status else 200


def _count(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _why_over(body: dict[str, Any]) -> str:
    """Return why a batch that is over brought no line for a call."""
    errors = body.get("errors")
    listed = errors.get("data") if isinstance(errors, dict) else None
    if isinstance(listed, list) and listed:
        return f"batch {body['status']}: {server_words(json.dumps({'error': listed[0]}))}"
    return f"batch {body['status']}: no answer in it"
