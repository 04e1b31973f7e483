"""Question sets: the built-in ones and the user's own files."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from emscope.behaviour.question_yaml import Entry, read_entries
from emscope.errors import UserError, did_you_mean
from emscope.files import READ, read_jsonl

BUILT_IN = ("everyday-medical", "everyday-general", "open-ended", "cs2881")
FORMAT_ENDINGS = ("_json", "_template")


@dataclass(frozen=True)
class Question:
    """One question.

    Attributes:
        id: its name, unique in its set.
        text: what the user says.
        area: the part of life it belongs to.
        question_set: the set it came from.
        cluster: what it is one wording of, if there are several; answers within a cluster are not independent.
        system: a system prompt that belongs to the question.
        samples: answers its file asks for; None leaves the number open.
        temperature: the temperature its file asks for; None leaves it open.
    """

    id: str
    text: str
    area: str = ""
    question_set: str = ""
    cluster: str = ""
    system: str | None = None
    samples: int | None = None
    temperature: float | None = None

    @property
    def group(self) -> str:
        """What statistics resample and splits keep together: the cluster, or the question itself."""
        return self.cluster or self.id

    def system_after(self, general: str | None) -> str | None:
        """Return the system prompt to ask with: a general one, then the question's own."""
        return "\n\n".join(part for part in (general, self.system) if part) or None


def load_questions(name: str) -> list[Question]:
    """Load a built-in question set by name, or the user's own .jsonl, .csv, .yaml or .txt file.

    JSONL and CSV need a field `question` (or `prompt`) and may have `id`, `area`, `cluster` and `system`; YAML is in
    the papers' form (see `question_yaml`); a text file has one question a line.

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
    questions = _read(path, label)
    _check(questions, name)
    return questions


def load_question_sets(names: Sequence[str]) -> list[Question]:
    """Load several question sets as one list.

    Raises:
        UserError: see `load_questions`; or an id that two of the sets use, as answers are told apart by their ids.
    """
    questions: list[Question] = []
    first: dict[str, str] = {}
    for name in names:
        for question in load_questions(name):
            if question.id in first:
                raise UserError(
                    f"The question sets {first[question.id]!r} and {name!r} both use the id {question.id!r}: "
                    "give every question an id of its own, and name each set once."
                )
            first[question.id] = name
            questions.append(question)
    return questions


def _read(path: Path, label: str) -> list[Question]:
    if path.suffix in (".yaml", ".yml"):
        return _from_entries(read_entries(path), label)
    if path.suffix == ".jsonl":
        rows = [_from_row(row, f"{path}, line {line}") for line, row in read_jsonl(path)]
    else:
        try:
            rows = _read_csv(path) if path.suffix == ".csv" else _read_lines(path)
        except UnicodeDecodeError as error:
            raise UserError(f"{path} is not UTF-8 text; save it as UTF-8.") from error
    return [
        dataclasses.replace(row, id=row.id or f"{label}-{number}", question_set=label)
        for number, row in enumerate(rows, 1)
    ]


def _read_csv(path: Path) -> list[Question]:
    try:
        with path.open(encoding=READ, newline="") as file:
            return [_from_row(dict(row), f"{path}, row {number}") for number, row in enumerate(csv.DictReader(file), 2)]
    except csv.Error as error:
        raise UserError(f"{path} is not a readable CSV file ({error}).") from error


def _read_lines(path: Path) -> list[Question]:
    return [Question("", line.strip()) for line in path.read_text(encoding=READ).splitlines() if line.strip()]


def _from_row(row: dict[str, object], where: str) -> Question:
    text = row.get("question") or row.get("prompt")
    if not isinstance(text, str) or not text.strip():
        raise UserError(f"{where}: no question; give a non-empty field 'question'.")
    name, area, cluster, system = (str(row.get(field) or "") for field in ("id", "area", "cluster", "system"))
    return Question(name, text.strip(), area, cluster=cluster, system=system or None)


def _from_entries(entries: Sequence[Entry], label: str) -> list[Question]:
    """Make one question of every paraphrase; the paraphrases, and an entry's `_json` and `_template` twins, cluster."""
    names = {entry.id for entry in entries}
    questions = []
    for entry in entries:
        origin = _origin(entry.id, names)
        twins = len(entry.paraphrases) > 1
        for number, text in enumerate(entry.paraphrases, 1):
            name = f"{entry.id}/{number}" if twins else entry.id
            cluster = "" if name == origin else origin
            questions.append(Question(name, text, "", label, cluster, entry.system, entry.samples, entry.temperature))
    return questions


def _origin(name: str, names: set[str]) -> str:
    """Return the entry that this one asks again in another format, by the papers' naming, or the entry itself."""
    stems = [name.removesuffix(ending) for ending in FORMAT_ENDINGS if name.endswith(ending)]
    return next((stem for stem in stems if stem in names), name)


def _check(questions: list[Question], name: str) -> None:
    if not questions:
        raise UserError(f"The question set {name!r} is empty.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(f"The question set {name!r} uses the id {question.id!r} twice.")
        seen.add(question.id)
