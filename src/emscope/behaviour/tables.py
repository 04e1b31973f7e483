"""Answers and judgements as tables: Parquet, and the homework's CSV."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import MISSING, asdict, dataclass, fields
from operator import attrgetter
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import pyarrow as pa
import pyarrow.parquet as pq

from emscope.behaviour.grouping import Asked, clusters_of
from emscope.behaviour.judging import Judgement
from emscope.behaviour.responses import Response
from emscope.cells import ANSWER, CHATS, PROMPT, Cells, canonical, find_column, flag_of, text_of
from emscope.errors import OutsideError, UserError
from emscope.files import atomic_path
from emscope.organisms.chat_rows import read_answered, with_input
from emscope.organisms.thoughts import message_thought
from emscope.outside import no_file, read_bytes
from emscope.spreadsheets import marked
from emscope.tabular import MAX_BYTES, parquet_columns, read_rows
from emscope.tabular import Row as TableRow

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


@dataclass(frozen=True)
class TwiceJudgedResponse(JudgedResponse):
    """One answer with a cheap judge's scores, and those of a strong judge that was asked about a part of the table.

    `anchor_judge` is empty where it was not asked.
    """

    anchor_aligned: float | None = None
    anchor_coherent: float | None = None
    anchor_verdict: str = ""
    anchor_mode: str = ""
    anchor_judge: str = ""


ANCHOR_COLUMNS = ("anchor_aligned", "anchor_coherent", "anchor_verdict", "anchor_mode", "anchor_judge")


def with_anchor(
    rows: Sequence[JudgedResponse], organisms: Sequence[str], strong: Sequence[Judgement | None], judge: str
) -> list[TwiceJudgedResponse]:
    """Join judged answers with what a strong judge said of a part of them, None for the others, row by row."""
    joined = []
    for row, organism, one in zip(rows, organisms, strong, strict=True):
        cells = asdict(row) | {"organism": organism}
        scores = (None, None, "", "", "") if one is None else (*asdict(one).values(), judge)
        joined.append(TwiceJudgedResponse(**cells, **dict(zip(ANCHOR_COLUMNS, scores, strict=True))))
    return joined


def with_judgements(
    organism: str, responses: Sequence[Response], judgements: Sequence[Judgement], judge: str
) -> list[JudgedResponse]:
    """Join answers with their judgements, row by row."""
    rows = []
    for response, judgement in zip(responses, judgements, strict=True):
        rows.append(JudgedResponse(organism, **asdict(response), **asdict(judgement), judge=judge))
    return rows


def judgements_and_groups(rows: Sequence[JudgedResponse]) -> tuple[list[Judgement], list[str]]:
    """Return what was scored of each answer, and what its question is a wording of: what statistics are made from."""
    judgements: list[Judgement] = []
    groups: list[str] = []
    for row in rows:
        judgements.append(row.judgement)
        groups.append(row.group)
    return judgements, groups


def write_table(path: Path, rows: Sequence[Any], *, mark_formulas: bool = True) -> None:
    """Write dataclass rows as Parquet, or the homework's CSV (id, question, response), by the file's suffix.

    `mark_formulas` puts an apostrophe before a CSV's cells that spreadsheets would run (see `spreadsheets`).

    Raises:
        UserError: another suffix.
    """
    check_table_suffix(path)
    with atomic_path(path) as temporary:
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(list(map(asdict, rows))), temporary)
            return
        with temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            extra = ["aligned", "coherent", "verdict", "mode", "judge"] if rows and hasattr(rows[0], "judge") else []
            extra += ["organism", *ANCHOR_COLUMNS] if rows and hasattr(rows[0], "anchor_judge") else []
            extra += ["thought"] if any(getattr(row, "thought", "") for row in rows) else []
            writer.writerow(["id", "question", "response", *extra])
            cells_of = attrgetter("question_id", "question", "response", *extra)
            writer.writerows(marked(map(list, map(cells_of, rows)), formulas=mark_formulas))


def check_table_suffix(path: Path) -> None:
    """Refuse a table's file name before any work is done for it.

    Raises:
        UserError: neither .parquet nor .csv.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise UserError(f"Cannot write {path.name}: use .parquet or .csv.")


def read_responses(path: Path) -> list[Response]:
    """Read anybody's answers: a table of any kind with `question`, `response` and perhaps `id`, or chats of one turn.

    Other usual names of the columns are read where they are not ambiguous. Rows with the same id (or, without ids, the
    same question) are samples of one question; `cluster` joins questions, and so does an equal text (see `grouping`).
    An empty answer stays a row: no judge scores it. Thoughts, in a column `thought` or `reasoning_content` or between
    their marks in the response, are kept apart.

    Raises:
        UserError: missing, unreadable, empty, or a row without a question or an answer.
    """
    rows = read_rows(path)
    if not rows:
        raise UserError(f"{path} holds no answers.")
    texts = answered_texts(rows, path)
    named = []
    for (where, row), (question, _) in zip(rows, texts, strict=True):
        named.append(_names(row, question, f"{path}, {where}"))
    clusters = clusters_of(named, str(path))

    seen: dict[str, int] = {}
    responses = []
    for (where, row), (question, answer), asked, cluster in zip(rows, texts, named, clusters, strict=True):
        cells = _by_name(row)
        sample = seen[asked.id] = seen.get(asked.id, -1) + 1
        question_set = text_of(cells.get("question_set"), "question_set", f"{path}, {where}") or path.stem
        truncated = flag_of(cells.get("truncated"), "truncated", f"{path}, {where}")
        thought, spoken = message_thought({"content": answer, "reasoning_content": _thought_column(cells)})
        responses.append(
            Response(
                question_set,
                asked.id,
                question,
                sample,
                spoken,
                len(answer.split()),
                truncated or bool(thought and not spoken),
                cluster=cluster,
                thought=thought,
                n_thought_tokens=len(thought.split()),
            )
        )
    return responses


def organisms_in(path: Path, default: str) -> list[str]:
    """Return whose answer each row of a table is, by its column `organism`; the default where it has none.

    Raises:
        UserError: missing or unreadable.
    """
    names = []
    for where, row in read_rows(path):
        names.append(text_of(_by_name(row).get("organism"), "organism", f"{path}, {where}") or default)
    return names


def _thought_column(cells: dict[str, Any]) -> str:
    """Return the thought that a table keeps in a column of its own, '' if none."""
    for name in ("thought", "reasoning_content"):
        text = cells.get(name)
        if isinstance(text, str) and text.strip():
            return text
    return ""


def question_name(row: Response) -> str:
    """Return what names an answer's question where rows are sorted by question: its id, unless ids number the answers.

    There `read_responses` made the question's text the cluster.
    """
    return row.cluster if row.cluster == " ".join(row.question.split()) else row.question_id


def answered_texts(rows: Sequence[TableRow], path: Path) -> list[tuple[str, str]]:
    """Return (question, answer) of each row of a table of answers, or of chats with one turn each.

    Raises:
        UserError: columns that are missing or ambiguous, or a row without a question or an answer.
    """
    cells = [row for _, row in rows]
    asked, answered = find_column(cells, PROMPT, str(path)), find_column(cells, ANSWER, str(path))
    first = cells[0]
    is_chat = _is_list(first, asked) or any(canonical(name) in (*CHATS, "body") for name in first)
    if is_chat and (asked is None or answered is None or _is_list(first, asked)):
        return [read_answered(row, f"{path}, {where}") for where, row in rows]
    return [_texts(row, asked, answered, f"{path}, {where}") for where, row in rows]


def _is_list(row: dict[str, Any], column: str | None) -> bool:
    return column is not None and isinstance(row.get(column), list)


def _texts(row: dict[str, Any], asked: str | None, answered: str | None, where: str) -> tuple[str, str]:
    if asked is None and "custom_id" in row:
        raise UserError(f"{where}: a batch's result without its question: add the request's 'body' by 'custom_id'.")
    if asked is None or answered is None or answered not in row:
        raise UserError(f"{where}: give text in 'question' and 'response'; its columns are {', '.join(map(str, row))}.")
    question = with_input(text_of(row.get(asked), asked, where), asked, _by_name(row).get("input"), where)
    if not question.strip():
        raise UserError(f"{where}: no question; give text in 'question' and 'response'.")
    return question, text_of(row[answered], answered, where)


def _names(row: dict[str, Any], question: str, where: str) -> Asked:
    """Return a row's question id (its text where it has none), its text and its cluster."""
    cells = _by_name(row)
    name = question
    for column in ("custom_id", "id", "question_id"):  # the last that is there is the best
        name = text_of(cells.get(column), column, where) or name
    return Asked(name, question, text_of(cells.get("cluster"), "cluster", where))


def _by_name(row: Cells) -> Cells:
    return {canonical(name): value for name, value in row.items()}


def read_table(path: Path, kind: type[Row]) -> list[Row]:
    """Read dataclass rows from Parquet.

    Raises:
        UserError: missing, damaged, without the columns of `kind`, or with values of another kind.
    """
    if not path.is_file():
        raise no_file(path)
    columns = parquet_columns(path, read_bytes(path, MAX_BYTES))
    hints = get_type_hints(kind)
    known, needed = set(hints), set()
    for field in fields(kind):  # type: ignore[arg-type]
        if field.default is MISSING:
            needed.add(field.name)
    if not needed <= set(columns) <= known and (columns or needed):
        if not columns:
            return []
        odd = ", ".join(sorted((needed - set(columns)) | (set(columns) - known)))
        raise UserError(f"{path} has other columns than {kind.__name__}: {odd}.")
    checked = []
    for name, values in columns.items():
        checked.append(_checked(path, name, hints[name], values))
    return [kind(**dict(zip(columns, cells, strict=True))) for cells in zip(*checked, strict=True)]


SCORES = ("aligned", "coherent")
HIGHEST = 100 + 1e-6


def _checked(path: Path, name: str, hint: Any, values: list[Any]) -> list[Any]:
    """Return a column's values as the dataclass has them.

    Raises:
        OutsideError: a value of another kind, or a score that is none.
    """
    if hint == float | None:
        values = [float(value) if type(value) is int else value for value in values]
    for number, value in enumerate(values, 1):
        if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
            raise OutsideError(f"{path}, row {number}", f"holds {value!r} as {name!r}, which is no {_named(hint)}")
        if name in SCORES and value is not None and not 0 <= value <= HIGHEST:
            raise OutsideError(f"{path}, row {number}", f"holds the score {value!r} as {name!r}, not 0 to 100")
    return values


def _named(hint: Any) -> str:
    return {str: "text", int: "whole number", bool: "true or false"}.get(hint, "number")
