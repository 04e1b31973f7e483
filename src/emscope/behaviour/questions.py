"""Question sets: the built-in ones and the user's own files."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from emscope.behaviour.grouping import Asked, clusters_of
from emscope.behaviour.question_yaml import Entry, entries_of
from emscope.cells import CHATS, PROMPT, canonical, find_column, text_of
from emscope.errors import UserError, did_you_mean
from emscope.organisms.chat_rows import read_prompt, with_input
from emscope.tabular import YAML_SUFFIXES, Row, near_files, read_document, rows_of_value, table_suffix

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
        return "\n\n".join(filter(None, (general, self.system))) or None


def ids_of(questions: Iterable[Question]) -> list[str]:
    """Return the ids of questions, in order."""
    return [question.id for question in questions]


def load_questions(name: str) -> list[Question]:
    """Load a built-in question set by name, or the user's own file of any kind that `tabular` reads.

    Tables need a column `question` (or `prompt`, `instruction`, …) and may have `id`, `area`, `cluster` and `system`;
    YAML and JSON may be in the papers' form (see `question_yaml`) or list texts under `questions`, as trait files do;
    a .txt file has one question a line. Questions with one text share a cluster.

    Raises:
        UserError: unknown name, an unreadable file, an empty set or a repeated id.
    """
    if name in BUILT_IN:
        path = Path(str(files("emscope") / "assets" / "questions" / f"{name}.jsonl"))
        label = name
    else:
        path, label = Path(name).expanduser(), Path(name).stem
        if path.is_dir():
            raise UserError(f"{path} is a folder: name a question file in it.")
        if not path.is_file():
            near = did_you_mean(name, [*near_files(name), *BUILT_IN])
            raise UserError(f"There is no question set or file {name!r}.{near}")
    questions = _read(path, label)
    _check(questions, name)
    return _clustered(questions, name)


def _clustered(questions: list[Question], name: str) -> list[Question]:
    """Give questions with one text one cluster, the id of the first of them."""
    asked = [Asked(question.id, question.text, question.cluster) for question in questions]
    clusters = clusters_of(asked, name)
    first: dict[str, str] = {}
    clustered = []
    for question, cluster in zip(questions, clusters, strict=True):
        if cluster and not question.cluster:
            cluster = first.setdefault(cluster, question.id) if cluster == " ".join(question.text.split()) else cluster
        clustered.append(question if cluster == question.cluster else dataclasses.replace(question, cluster=cluster))
    return clustered


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
    return _clustered(questions, "the question sets together")


def _read(path: Path, label: str) -> list[Question]:
    document = read_document(path)
    if document.lines is not None:
        return _named([Question("", line) for _, line in document.lines], label)
    if document.rows is not None:
        return _from_rows(document.rows, path, label)
    value = document.value
    if isinstance(value, dict) and _holds_objects(value.get("questions")):
        value = value["questions"]
    listed = _listed_texts(value)
    if listed is not None:
        return _named(_from_texts(listed, path), label)
    if isinstance(value, list) and value and all(map(_is_table_row, value)):
        return _from_rows(rows_of_value(value, path), path, label)
    if table_suffix(path) in YAML_SUFFIXES or _is_papers(value):
        return _from_entries(entries_of(value, path), label)
    return _from_rows(rows_of_value(value, path), path, label)


def _holds_objects(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, dict) for entry in value)


def _listed_texts(value: Any) -> list[Any] | None:
    """Return the texts of a list, or those under `questions` or `prompts`, as persona vectors' trait files have."""
    if isinstance(value, dict):
        questions, prompts = value.get("questions"), value.get("prompts")
        if isinstance(questions, list) and isinstance(prompts, list):
            return None
        value = questions if isinstance(questions, list) else prompts
    return value if isinstance(value, list) and value and isinstance(value[0], str) else None


def _is_papers(value: Any) -> bool:
    return isinstance(value, list) and any(map(_is_paraphrased, value))


def _is_paraphrased(entry: Any) -> bool:
    return isinstance(entry, dict) and "paraphrases" in entry


def _is_table_row(item: Any) -> bool:
    """Say whether an item of a list is a row with a question in a column, not one of the papers' entries."""
    names = set(map(canonical, item)) if isinstance(item, dict) else set()
    return "paraphrases" not in names and bool(names & {*PROMPT, *CHATS, "body"})


def _from_texts(texts: list[Any], path: Path) -> list[Question]:
    questions = []
    for number, text in enumerate(texts, 1):
        if not isinstance(text, str) or not text.strip():
            raise UserError(f"{path}, row {number}: no question; every one must be a text that is not empty.")
        questions.append(Question("", text.strip()))
    return questions


def _named(questions: Sequence[Question], label: str) -> list[Question]:
    """Give questions without an id one of their number in the file."""
    named = []
    for number, question in enumerate(questions, 1):
        named.append(dataclasses.replace(question, id=question.id or f"{label}-{number}", question_set=label))
    return named


def _from_rows(rows: Sequence[Row], path: Path, label: str) -> list[Question]:
    cells = [row for _, row in rows]
    if any(map(_is_paraphrased, cells)):
        return _from_entries(entries_of(cells, path), label)
    column = find_column(cells, PROMPT, str(path))
    return _named([_from_row(row, column, f"{path}, {where}") for where, row in rows], label)


def _from_row(row: dict[str, Any], column: str | None, where: str) -> Question:
    given = {canonical(name): value for name, value in row.items()}

    def text_in(field: str) -> str:
        return text_of(given.get(field), field, where).strip()

    name, area, cluster, system = text_in("id"), text_in("area"), text_in("cluster"), text_in("system")
    asked = row.get(column) if column is not None else None
    if isinstance(asked, list) or (column is None and given.keys() & {*CHATS, "body"}):
        system_of_chat, text = read_prompt(row, where)
        system = system or system_of_chat
        name = name or text_of(given.get("custom_id"), "custom_id", where)
    else:
        text = text_of(asked, column or "question", where)
        text = with_input(text, column or "", given.get("input"), where)
    if column is None and not text.strip():
        raise UserError(f"{where}: no column 'question'; its columns are {', '.join(map(str, row)) or 'none'}.")
    if not text.strip():
        raise UserError(f"{where}: no question; give a non-empty field 'question'.")
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
    for ending in FORMAT_ENDINGS:
        stem = name.removesuffix(ending)
        if stem != name and stem in names:
            return stem
    return name


def _check(questions: list[Question], name: str) -> None:
    if not questions:
        raise UserError(f"The question set {name!r} is empty.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise UserError(f"The question set {name!r} uses the id {question.id!r} twice.")
        seen.add(question.id)
