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
    named = [(_name(item, number), item) for number, item in enumerate(value, 1)]
    odd = [f"{name} ({item['type']})" for name, item in named if isinstance(item, dict) and not _is_free_form(item)]
    if odd:
        raise UserError(f"{path}: only free-form questions can be asked; take these out of the file: {', '.join(odd)}.")
    return [_entry(item, number, f"{path}, {name}") for number, (name, item) in enumerate(named, 1)]


def _name(item: Any, number: int) -> str:
    """Return how an entry is called in messages."""
    known = isinstance(item, dict) and item.get("id") is not None
    return f"entry {number} {str(item['id'])!r}" if known else f"entry {number}"


def _is_free_form(item: dict[str, Any]) -> bool:
    return str(item.get("type") or FREE_FORM).startswith(FREE_FORM)


def _entry(item: Any, number: int, where: str) -> Entry:
    if not isinstance(item, dict):
        raise UserError(f"{where}: expected `id` and `paraphrases`, found {type(item).__name__}.")
    name = "" if item.get("id") is None else str(item["id"]).strip()
    if not name:
        raise UserError(f"{where}: no id; give a non-empty `id`.")
    system = item.get("system")
    if system is not None and not isinstance(system, str):
        raise UserError(f"{where}: `system` must be text, not {type(system).__name__}.")
    return Entry(
        name,
        _paraphrases(item.get("paraphrases"), where),
        (system or "").strip() or None,
        _samples(item.get("samples_per_paraphrase"), where),
        _temperature(item.get("temperature"), where),
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
