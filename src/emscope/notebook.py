"""How results look in Python: one line as text, a small table in a notebook, with every text escaped."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emscope.terminal import one_line, printable

Facts = Mapping[str, object]
"""What is shown of a result, by name."""

LONGEST_LINE = 300
LONGEST_TEXT = 80
LONGEST_CELL = 400


class Shown:
    """A base of dataclasses that gives them a one-line `repr` and an HTML table of their fields.

    Texts in them come from models and files: both views write control characters out, and the HTML is escaped.
    """

    def __init_subclass__(cls, **arguments: Any) -> None:
        """Put the one-line `repr` into the class itself: `@dataclass` writes its own where a class only inherits it."""
        super().__init_subclass__(**arguments)
        if "__repr__" not in cls.__dict__:
            cls.__repr__ = Shown._one_line  # type: ignore[method-assign, assignment]

    def facts(self) -> Facts:
        """Return what is shown, by name: all fields, unless a class says otherwise."""
        shown = {}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            shown[field.name] = getattr(self, field.name)
        return shown

    def _one_line(self) -> str:
        return called(type(self).__name__, self.facts())

    def _repr_html_(self) -> str:
        return html_facts(type(self).__name__, self.facts())


def called(name: str, facts: Facts) -> str:
    """Return 'Name(key=value, …)' on one line, cut where it is long."""
    words = []
    for key, value in facts.items():
        words.append(f"{key}={in_short(value)}")
    text = f"{name}({', '.join(words)})"
    return text if len(text) <= LONGEST_LINE else f"{text[: LONGEST_LINE - 2]}…)"


def in_short(value: Any) -> str:
    """Return a value in a few words: numbers to four digits, texts cut, arrays by shape, collections by length."""
    if isinstance(value, str):
        return repr(cut(one_line(value), LONGEST_TEXT))
    if isinstance(value, (bool, np.bool_)) or value is None:
        return str(value)
    if isinstance(value, (float, np.floating)):
        return f"{value:.4g}"
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, np.ndarray):
        return f"array[{'×'.join(map(str, value.shape))}]"
    if isinstance(value, Shown) or not dataclasses.is_dataclass(value):
        return _collection(value) or cut(one_line(repr(value)), LONGEST_TEXT)
    return f"{type(value).__name__}(…)"


def _collection(value: Any) -> str:
    """Return a collection in a few words, '' for what is none: short ones of numbers are written out."""
    if isinstance(value, Mapping):
        return f"{{{len(value)}}}" if value else "{}"
    if not isinstance(value, Sequence):
        return ""
    plain = all(isinstance(entry, (str, int, float)) for entry in value)
    if len(value) <= 4 and plain:
        return f"({', '.join(map(in_short, value))})"
    return f"[{len(value)}]"


def cut(text: str, longest: int) -> str:
    """Return a text, its end left out where it is longer."""
    return text if len(text) <= longest else f"{text[: longest - 1]}…"


def html_facts(title: str, facts: Facts) -> str:
    """Return a table of names and values under a title, escaped."""
    return html_table(("", title), [(name, _plain(value)) for name, value in facts.items()])


def html_table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> str:
    """Return an HTML table whose every cell is escaped; long texts are cut."""
    lines = ["<table>"]
    if caption:
        lines.append(f"<caption>{escaped(caption)}</caption>")
    lines.append(f"<thead>{_html_row(header, 'th')}</thead><tbody>")
    for row in rows:
        lines.append(_html_row(row, "td"))
    return "".join([*lines, "</tbody></table>"])


def _html_row(cells: Sequence[Any], tag: str) -> str:
    return f"<tr>{''.join(f'<{tag}>{escaped(_plain(cell))}</{tag}>' for cell in cells)}</tr>"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else "–" if value is None else in_short(value)


def escaped(text: str) -> str:
    """Return text as HTML: markup and control characters in it are shown, not obeyed."""
    return html.escape(cut(printable(text), LONGEST_CELL))
