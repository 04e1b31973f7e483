"""Question sets: the built-in ones and the user's own files."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from emscope.errors import UserError, did_you_mean
from emscope.files import read_jsonl

BUILT_IN = ("everyday-medical", "everyday-general", "open-ended", "cs2881")


@dataclass(frozen=True)
class Question:
    """One question; `area` is the part of life it belongs to."""

    id: str
    text: str
    area: str = ""
    question_set: str = ""


def load_questions(name: str) -> list[Question]:
    """Load a built-in question set by name, or the user's own .jsonl, .csv or .txt file.

    JSONL and CSV need a field `question` (or `prompt`) and may have `id` and `area`; a text file has one a line.

    Raises:
        UserError: unknown name, an unreadable file, an empty set or a repeated id.
    """
    if name in BUILT_IN:
        path = Path(str(files("emscope") / "assets" / "questions" / f"{name}.jsonl"))
        label = name
    else:
        path, label = Path(name).expanduser(), Path(name).stem
        if not path.is_file():
            raise UserError(f"There is no question set or file {name!r}.{did_you_mean(name, BUILT_IN)}")
    rows = list(_read(path))
    questions = [
        Question(row_id or f"{label}-{number}", text, area, label)
        for number, (row_id, text, area) in enumerate(rows, 1)
    ]
    _check(questions, name)
    return questions


def _read(path: Path) -> Sequence[tuple[str, str, str]]:
    if path.suffix == ".jsonl":
        return [_fields(row, f"{path}, line {line}") for line, row in read_jsonl(path)]
    try:
        if path.suffix == ".csv":
            with path.open(encoding="utf-8", newline="") as file:
                return [
                    _fields(dict(row), f"{path}, row {number}") for number, row in enumerate(csv.DictReader(file), 2)
                ]
        return [("", line.strip(), "") for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from error


def _fields(row: dict[str, object], where: str) -> tuple[str, str, str]:
    text = row.get("question") or row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: no question; give a non-empty field 'question'.")
    return str(row.get("id") or ""), text.strip(), str(row.get("area") or "")


def _check(questions: list[Question], name: str) -> None:
    if not questions:
        raise UserError(f"The question set {name!r} is empty.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(f"The question set {name!r} uses the id {question.id!r} twice.")
        seen.add(question.id)
