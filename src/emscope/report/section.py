"""A section of the report: plain text, tables and plots about one experiment, rendered with everything escaped."""

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


@dataclass(frozen=True)
class Section:
    """One experiment on the page.

    Attributes:
        key: the experiment's name, also the anchor.
        title: its heading.
        paragraphs: what was done and what was found, in plain words; the first is the finding.
        parts: plots and tables, in order.
    """

    key: str
    title: str
    paragraphs: Sequence[str]
    parts: Sequence[Plot | Table] = field(default=())


def is_plot(part: Plot | Table) -> bool:
    """Say which of the two a part is, for the template."""
    return isinstance(part, Plot)


def cell(value: str | float | None) -> str:
    """Return a table cell as text: three significant digits, a dash for nothing."""
    if value is None or value != value:
        return "–"
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def write_section_page(path: Path, sections: Sequence[Section], title: str) -> None:
    """Write sections as a page of their own, self-contained."""
    write_text(path, render("sections.html.j2", sections=sections, title=title, is_plot=is_plot, cell=cell))
