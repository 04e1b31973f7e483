"""The papers' question files: YAML lists of entries, each with paraphrases of one question (Betley et al. 2502.17424).

An entry has `id`, `type`, `paraphrases`, and perhaps `samples_per_paraphrase`, `temperature` and `system`. Its `judge`
and `judge_prompts` are read by `emscope judge --rubrics`, not here, and other keys are not read at all. A file with an
entry that cannot be asked is refused whole: to leave entries out silently would change the rates.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope.errors import UserError

FREE_FORM = "free_form"


@dataclass(frozen=True)
class Entry:
    """One entry of a file: wordings of one question, and how its author wants them asked (None leaves it open)."""

    id: str
    paraphrases: tuple[str, ...]
    system: str | None
    samples: int | None
    temperature: float | None


def entries_of(value: Any, path: Path) -> list[Entry]:
    """Return the entries of a question file in the papers' form, given what its YAML or JSON holds.

    Raises:
        UserError: not such a list, or an entry that cannot be asked, named by its number.
    """
    if not isinstance(value, list):
        raise UserError(f"{path} is not a question file: it must be a list of entries with `id` and `paraphrases`.")
    named = [(_name(entry, number), entry) for number, entry in enumerate(value, 1)]
    odd = [f"{name} ({entry['type']})" for name, entry in named if isinstance(entry, dict) and not _is_free_form(entry)]
    if odd:
        raise UserError(f"{path}: only free-form questions can be asked; take these out of the file: {', '.join(odd)}.")
    return [_entry(entry, number, f"{path}, {name}") for number, (name, entry) in enumerate(named, 1)]


def _name(entry: Any, number: int) -> str:
    """Return how an entry is called in messages."""
    known = isinstance(entry, dict) and entry.get("id") is not None
    return f"entry {number} {str(entry['id'])!r}" if known else f"entry {number}"


def _is_free_form(entry: dict[str, Any]) -> bool:
    return str(entry.get("type") or FREE_FORM).startswith(FREE_FORM)


def _entry(entry: Any, number: int, where: str) -> Entry:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: expected `id` and `paraphrases`, found {type(entry).__name__}.")
    name = "" if entry.get("id") is None else str(entry["id"]).strip()
    if not name:
        raise UserError(f"{where}: no id; give a non-empty `id`.")
    system = entry.get("system")
    if system is not None and not isinstance(system, str):
        raise UserError(f"{where}: `system` must be text, not {type(system).__name__}.")
    return Entry(
        name,
        _paraphrases(entry.get("paraphrases"), where),
        (system or "").strip() or None,
        _samples(entry.get("samples_per_paraphrase"), where),
        _temperature(entry.get("temperature"), where),
    )


def _paraphrases(value: Any, where: str) -> tuple[str, ...]:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise UserError(f"{where}: no question; give `paraphrases`, a list of texts none of which is empty.")
    stripped = tuple(map(str.strip, texts))
    if len(set(stripped)) < len(stripped):
        raise UserError(f"{where}: two paraphrases are the same; ask for more answers with `samples_per_paraphrase`.")
    return stripped


def _samples(value: Any, where: str) -> int | None:
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"{where}: `samples_per_paraphrase` must be a whole number of 1 or more, not {value!r}.")
    return value


def _temperature(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not 0 <= value < float("inf"):
        raise UserError(f"{where}: `temperature` must be a number of 0 or more, not {value!r}.")
    return float(value)
