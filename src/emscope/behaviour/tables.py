"""Answers and judgements as tables: Parquet, and the homework's CSV."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from emscope.behaviour.judging import Judgement
from emscope.behaviour.responses import Response
from emscope.errors import UserError
from emscope.files import atomic_path, no_file, read_rows
from emscope.organisms.thoughts import message_thought

Row = TypeVar("Row")


@dataclass(frozen=True)
class JudgedResponse:
    """One answer with its scores and who gave them."""

    organism: str
    question_set: str
    question_id: str
    question: str
    sample: int
    response: str
    n_tokens: int
    truncated: bool
    aligned: float | None
    coherent: float | None
    verdict: str
    mode: str
    judge: str
    cluster: str = ""
    thought: str = ""
    n_thought_tokens: int = 0
    thought_forced: bool = False

    @property
    def group(self) -> str:
        """What statistics resample: answers of one group are not independent."""
        return self.cluster or self.question_id

    @property
    def judgement(self) -> Judgement:
        """The scores alone."""
        return Judgement(self.aligned, self.coherent, self.verdict, self.mode)


def with_judgements(
    organism: str, responses: Sequence[Response], judgements: Sequence[Judgement], judge: str
) -> list[JudgedResponse]:
    """Join answers with their judgements, row by row."""
    pairs = zip(responses, judgements, strict=True)
    return [JudgedResponse(organism, **asdict(response), **asdict(score), judge=judge) for response, score in pairs]


def write_table(path: Path, rows: Sequence[Any]) -> None:
    """Write dataclass rows as Parquet, or the homework's CSV (id, question, response), by the file's suffix.

    Raises:
        UserError: another suffix.
    """
    check_table_suffix(path)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            extra = ["aligned", "coherent", "verdict", "mode", "judge"] if rows and hasattr(rows[0], "judge") else []
            extra += ["thought"] if any(getattr(row, "thought", "") for row in rows) else []
            writer.writerow(["id", "question", "response", *extra])
            writer.writerows(
                [row.question_id, row.question, row.response, *(getattr(row, name) for name in extra)] for row in rows
            )


def check_table_suffix(path: Path) -> None:
    """Refuse a table's file name before any work is done for it.

    Raises:
        UserError: neither .parquet nor .csv.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"Cannot write {path.name}: use .parquet or .csv.")


def read_responses(path: Path) -> list[Response]:
    """Read anybody's answers: a .parquet, .csv or .jsonl table with `question`, `response` and perhaps `id`.

    Rows with the same id (or, without ids, the same question) are samples of one question; `cluster` joins questions.
    Thoughts, in a column `thought` or `reasoning_content` or between their marks in the response, are kept apart.

    Raises:
        UserError: missing, unreadable, empty, or a row without a question or an answer.
    """
    seen: dict[str, int] = {}
    responses = []
    for where, row in read_rows(path):
        question = row.get("question") or row.get("prompt")
        answer = row.get("response") if row.get("response") is not None else row.get("answer")
        if not isinstance(question, str) or not isinstance(answer, str):
            columns = ", ".join(map(str, row))
            raise UserError(f"{path}, {where}: give text in 'question' and 'response'; its columns are {columns}.")
        thought, spoken = message_thought({"content": answer, "reasoning_content": _thought_column(row)})
        name = str(row.get("question_id") or row.get("id") or question)
        sample = seen[name] = seen.get(name, -1) + 1
        responses.append(
            Response(
                str(row.get("question_set") or path.stem), name, question, sample, spoken, len(answer.split()),
                truncated=bool(row.get("truncated")) or bool(thought and not spoken),
                cluster=str(row.get("cluster") or ""), thought=thought, n_thought_tokens=len(thought.split()),
            )
        )  # fmt: skip
    if not responses:
        raise UserError(f"{path} holds no answers.")
    return responses


def _thought_column(row: Mapping[str, Any]) -> str:
    """Return the thought that a table keeps in a column of its own, '' if none."""
    columns = (row.get(name) for name in ("thought", "reasoning_content"))
    return next((text for text in columns if isinstance(text, str) and text.strip()), "")


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """Read dataclass rows from Parquet.

    Raises:
        UserError: missing, damaged, or without the columns of `kind`.
    """
    if not path.is_file():
        raise no_file(path)
    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}).") from error
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    needed = {field.name for field in fields(kind) if field.default is MISSING}  # type: ignore[arg-type]
    if rows and not needed <= set(rows[0]) <= known:
        odd = ", ".join(sorted((needed - set(rows[0])) | (set(rows[0]) - known)))
        raise UserError(f"{path} has other columns than {kind.__name__}: {odd}.")
    return [kind(**row) for row in rows]
