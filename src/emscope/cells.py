"""What single cells of other people's tables mean, and which column holds what: text, flags, scores, usual names."""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from typing import Any

from emscope.errors import UserError

logger = logging.getLogger(__name__)

Cells = dict[str, Any]
"""One row of somebody's table by its columns' names; what a cell holds is not known before it is read."""

PROMPT = ("question", "prompt", "instruction", "user", "query", "input")
ANSWER = ("response", "answer", "completion", "output", "generation", "assistant", "model_answer", "model_response")
CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog")
TRUE = ("true", "t", "yes", "y", "1", "1.0")
FALSE = ("false", "f", "no", "n", "0", "0.0", "", "none", "null", "nan")


def canonical(name: object) -> str:
    """Return a column's name without differences of case, and of space, dash and underscore."""
    return re.sub(r"[\s-]+", "_", str(name).strip()).casefold()


def is_missing(value: Any) -> bool:
    """Say whether a cell is empty: null, or the NaN that pandas puts there."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def text_of(value: Any, what: str, where: str) -> str:
    """Return a cell as text, '' where it is empty; numbers are written plainly (1.0, as pandas makes of 1, is '1').

    Raises:
        UserError: true or false, a list, an object or bytes.
    """
    if is_missing(value):
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise UserError(f"{where}: {what!r} must be text, not {_kind(value)}.")
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _kind(value: Any) -> str:
    names = {bool: "true or false", list: "a list", dict: "an object", bytes: "bytes"}
    return names.get(type(value), type(value).__name__)


def flag_of(value: Any, what: str, where: str) -> bool:
    """Return a yes-or-no cell; empty is no.

    Raises:
        UserError: anything else than true/false, yes/no, 1/0 in any case.
    """
    word = "" if is_missing(value) else str(value).strip().casefold()
    if word in TRUE:
        return True
    if word in FALSE:
        return False
    raise UserError(f"{where}: {what!r} must be true or false, not {value!r}.")


def score_of(value: Any, what: str, where: str) -> float | None:
    """Return a judge's score 0-100: a number, or text such as '85', '85.5', '85,5', '85 %' or '85/100'.

    None where it is empty or a word (REFUSAL, CODE, nan): unscored.

    Raises:
        UserError: true or false, a number outside 0-100, or text with digits that says no such score or may say
            another ('1,000' is 1 to some and 1000 to others).
    """
    if is_missing(value):
        return None
    if isinstance(value, bool):
        raise UserError(f"{where}: {what!r} must be a score from 0 to 100, not {value}.")
    number = _number(str(value).strip())
    if number is None and (not isinstance(value, str) or re.search(r"\d|^(true|false|yes|no)$", value.strip(), re.I)):
        raise UserError(f"{where}: {what!r} must be a score from 0 to 100, not {value!r}.")
    if number is not None and not 0 <= number <= 100:
        raise UserError(f"{where}: {what!r} is {value!r}, outside the scale from 0 to 100.")
    return number


def _number(text: str) -> float | None:
    """Return the number that a text says, or None: '85', '8.5e1', '85,5', '85 %', '85/100', '85 out of 100'."""
    if re.match(r"[+-]?\d{1,3}(,\d{3})+(?!\d)", text):  # groups of thousands, or three decimals
        return None
    match = re.fullmatch(r"([+-]?(?:\d+(?:[.,]\d*)?|[.,]\d+)(?:e[+-]?\d+)?)\s*(?:%|/\s*100|out of 100)?", text, re.I)
    if match:
        return float(match[1].replace(",", "."))
    return float(text) if text.lower().lstrip("+-") in ("inf", "infinity") else None


def check_scale(columns: dict[str, Sequence[float | None]], where: str) -> None:
    """Refuse columns of scores that are shares from 0 to 1, or labels 0 and 1, in place of scores from 0 to 100.

    Whole zeros and ones pass where another column shows the scale; a warning names columns in which none exceeds 10.

    Raises:
        UserError: such a column, by name.
    """
    scored: dict[str, list[float]] = {}
    highest: dict[str, float] = {}
    for name, values in columns.items():
        scored[name] = [value for value in values if value is not None]
        highest[name] = max(scored[name], default=0.0)

    for name, values_there in scored.items():
        if not 0 < highest[name] <= 1:
            continue
        if any(0 < value < 1 for value in values_there) or max(highest.values()) <= 1:
            raise UserError(
                f"{where}: the scores in {name!r} all lie between 0 and 1, but emscope's scale goes from 0 to 100: "
                "multiply them by 100."
            )
    low = [name for name, most in highest.items() if 0 < most <= 10]
    if low:
        logger.warning(
            "%s: no score is above 10 in %s; emscope reads them on its scale from 0 to 100", where, _listed(low)
        )


def find_column(rows: Sequence[dict[str, Any]], spellings: Sequence[str], where: str) -> str | None:
    """Return the name of the column that holds something, by the usual spellings; None where there is none.

    The first spelling wins over the others, with a warning where another column says something else.

    Raises:
        UserError: several of the other spellings are there and differ.
    """
    names = _names_in(rows)
    if "instruction" in names.values():
        spellings = [spelling for spelling in spellings if spelling != "input"]  # Alpaca: a part of the instruction
    matching = []
    for spelling in spellings:
        matching += [name for name, plain in names.items() if plain == spelling]
    filled = [name for name in matching if any(_holds(row.get(name)) for row in rows)]
    chosen = (filled or matching)[:1]
    if not chosen:
        return None
    others = [name for name in filled[1:] if any(row.get(name) != row.get(chosen[0]) for row in rows)]
    if others and (canonical(chosen[0]) != spellings[0] or canonical(others[0]) == spellings[0]):
        raise UserError(
            f"{where}: the columns {_listed([chosen[0], *others])} could each be meant; "
            f"name the right one {spellings[0]!r} or delete the others."
        )
    if others:
        logger.warning("%s: the column %r is read, %s not", where, chosen[0], _listed(others))
    return chosen[0]


def _names_in(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Return the names of all columns in their order, each with its canonical form."""
    names: dict[str, str] = {}
    for row in rows:
        for name in row:
            if name not in names:
                names[name] = canonical(name)
    return names


def _holds(value: Any) -> bool:
    return not is_missing(value) and value != ""


def _listed(names: Sequence[str]) -> str:
    return " and ".join(map(repr, names))
