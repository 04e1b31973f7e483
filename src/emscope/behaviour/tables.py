"""Answers and judgements as tables: Parquet, and the homework's CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from emscope.behaviour.judging import Judgement
from emscope.behaviour.sampling import Response
from emscope.errors import UserError
from emscope.files import atomic_path

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
    judge: str

    @property
    def judgement(self) -> Judgement:
        """The scores alone."""
        return Judgement(self.aligned, self.coherent, self.verdict)


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
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"Cannot write {path.name}: use .parquet or .csv.")
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist([asdict(row) for row in rows]), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["id", "question", "response"])
            writer.writerows([row.question_id, row.question, row.response] for row in rows)


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """Read dataclass rows from Parquet.

    Raises:
        UserError: missing, damaged, or without the columns of `kind`.
    """
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    try:
        rows = pq.read_table(path).to_pylist()
    except pa.ArrowException as error:
        raise UserError(f"{path} is not a readable Parquet file ({error}).") from error
    wanted = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    if rows and set(rows[0]) != wanted:
        odd = ", ".join(sorted(wanted ^ set(rows[0])))
        raise UserError(f"{path} has other columns than {kind.__name__}: {odd}.")
    return [kind(**row) for row in rows]
