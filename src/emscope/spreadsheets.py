"""Cells that spreadsheets would run as formulas: marked on writing CSV, and unmarked on reading it.

A program that opens a CSV file takes a cell that begins with = + - @, a tab or a carriage return for a formula, even
one that came from a model's answer. An apostrophe before it makes it text (as OWASP advises). What already begins with
apostrophes before such a character gets one more, so that reading gives back what was written. Plain numbers are no
formulas and stay.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Sequence
from typing import Any

logger = logging.getLogger(__name__)

MARK = "'"
_FORMULA = re.compile(r"[=+\-@\t\r]")
_MARKED = re.compile(r"'+[=+\-@\t\r]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)


def is_formula(cell: Any) -> bool:
    """Say whether a spreadsheet would run a cell."""
    return isinstance(cell, str) and _FORMULA.match(cell) is not None and _NUMBER.fullmatch(cell) is None


def _is_marked(cell: Any) -> bool:
    return isinstance(cell, str) and _MARKED.match(cell) is not None and _NUMBER.fullmatch(cell.lstrip(MARK)) is None


def marked(rows: Iterable[Sequence[Any]], *, formulas: bool = True) -> list[list[Any]]:
    """Return rows of cells as they are written; `formulas` marks those that spreadsheets would run.

    Without it a cell that looks marked is still told from one that is, unless the rows hold a formula, which says as
    much by itself.
    """
    cells = list(map(list, rows))
    if not formulas and any(any(map(is_formula, row)) for row in cells):
        return cells
    return [list(map(_with_mark, row)) for row in cells]


def _with_mark(cell: Any) -> Any:
    return MARK + cell if is_formula(cell) or _is_marked(cell) else cell


def _without_mark(cell: Any) -> Any:
    return cell[1:] if _is_marked(cell) else cell


def unmarked(rows: Sequence[dict[str, Any]], where: object) -> list[dict[str, Any]]:
    """Return rows without the marks; a table with a cell that would have been marked, and is not, has none."""
    n_marked = 0
    for row in rows:
        if any(map(is_formula, row.values())):
            return list(rows)
        n_marked += sum(map(_is_marked, row.values()))
    if not n_marked:
        return list(rows)
    logger.info(
        "%s: %d cells are read without the apostrophe that keeps spreadsheets from running them", where, n_marked
    )
    plain = []
    for row in rows:
        plain.append({name: _without_mark(cell) for name, cell in row.items()})
    return plain
