"""A section of the report: text, tables, plots and scored texts about one experiment, all of it escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import plotly.graph_objects as go
from markupsafe import Markup

from emscope.files import write_text
from emscope.report import figures
from emscope.report.rendering import render


@dataclass(frozen=True)
class Plot:
    """A figure under its title, with a sentence on how to read it."""

    title: str
    figure: go.Figure
    caption: str = ""

    @property
    def html(self) -> Markup:
        """The figure as an HTML fragment for a page that has plotly."""
        return Markup(figures.as_html(self.figure))


@dataclass(frozen=True)
class Table:
    """Rows of text and numbers under a title; numbers are right-aligned, None is shown as a dash."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | float | None]]
    caption: str = ""

    def __post_init__(self) -> None:
        """Refuse cells that are neither text nor numbers, and rows that do not fit the header."""
        for row in self.rows:
            if len(row) != len(self.header):
                raise TypeError(f"a row of {len(row)} cells under a header of {len(self.header)}: {self.title}")
            for cell in (*row, *self.header):
                _check_kind(cell, (str, int, float, type(None)), self.title)


def _check_kind(value: object, kinds: tuple[type, ...], where: str) -> None:
    """Refuse what the page cannot show.

    Raises:
        TypeError: another kind of value, such as figures that another version wrote.
    """
    if not isinstance(value, kinds):
        raise TypeError(f"{type(value).__name__} where text or a number is shown: {where}")


SHADES = 4  # on each side of 0
LONGEST_FIGURE = 40  # letters of an interval with its unit; what is longer is a text that begins with a number


@dataclass(frozen=True)
class TokenText:
    """A text whose tokens have scores: a line above it, and (piece, score) in order; None is a piece without one."""

    label: str
    tokens: Sequence[tuple[str, float | None]]

    def __post_init__(self) -> None:
        """Refuse pieces that are no text, and scores that are no numbers."""
        for piece, score in self.tokens:
            _check_kind(piece, (str,), self.label)
            _check_kind(score, (int, float, type(None)), self.label)


@dataclass(frozen=True)
class TokenMap:
    """Texts in which each token's background shows its score, orange above 0 and blue below.

    Attributes:
        title: its heading.
        texts: what is shown.
        unit: what a score counts, for the legend.
        caption: a sentence on how to read it.
        full: the score, either way, from which on the shade is deepest.
    """

    title: str
    texts: Sequence[TokenText]
    unit: str
    caption: str = ""
    full: float = 2.0

    def shade(self, score: float | None) -> int:
        """Return the shade of a score, -4 to 4."""
        if score is None or score != score:
            return 0
        return max(-SHADES, min(SHADES, round(score / self.full * SHADES)))

    @property
    def legend(self) -> list[tuple[int, str]]:
        """Every shade, lowest first, with the score it stands for; the ends stand for everything beyond them."""
        shades = range(-SHADES, SHADES + 1)
        signs = {-SHADES: "≤ ", SHADES: "≥ "}
        return [(shade, f"{signs.get(shade, '')}{shade * self.full / SHADES:g}".replace("-", "−")) for shade in shades]


Part = Plot | Table | TokenMap


@dataclass(frozen=True)
class Section:
    """One experiment on the page.

    Attributes:
        key: the experiment's name, also the anchor.
        title: its heading.
        paragraphs: what was found and what was done, in plain words; the first is the finding, and opens the section.
        parts: plots, tables and token maps, in order; the first stands right under the finding.
    """

    key: str
    title: str
    paragraphs: Sequence[str]
    parts: Sequence[Part] = field(default=())

    def __post_init__(self) -> None:
        """Refuse paragraphs that are no text."""
        for paragraph in self.paragraphs:
            _check_kind(paragraph, (str,), self.title)

    @property
    def figures(self) -> dict[str, go.Figure]:
        """The plots by title, as a notebook can show them."""
        return {part.title: part.figure for part in self.parts if isinstance(part, Plot)}


def is_plot(part: Part) -> bool:
    """Say whether a part is a plot, for the template."""
    return isinstance(part, Plot)


def cell(value: str | float | None) -> str:
    """Return a table cell as text: three significant digits, a dash for nothing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def is_words(value: str | float | None) -> bool:
    """Say whether a cell holds words to read from the left, not a figure or an interval; a long text always does."""
    if not isinstance(value, str) or len(value) <= 1:
        return False
    return len(value) > LONGEST_FIGURE or not any(letter.isdigit() for letter in value[:4])


def write_section_page(path: Path, sections: Sequence[Section], title: str) -> None:
    """Write sections as a page of their own, self-contained."""
    write_text(
        path, render("sections.html.j2", sections=sections, title=title, is_plot=is_plot, cell=cell, is_words=is_words)
    )
