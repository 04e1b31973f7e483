"""Plots of the transfer experiment: matrices of directions against organisms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from emscope.report.figures import by_block, plain

Cells = Mapping[str, Mapping[str, Mapping[str, Any]]]


def matrix(
    cells: Cells,
    columns: Sequence[str],
    labels: tuple[str, str],
    *,
    scale: float = 1,
    limits: tuple[float, float] = (0, 1),
) -> go.Figure:
    """Draw estimates (`value`, `low`, `high`) of rows against columns, each cell with its value and its interval.

    Colours run over `limits`, in the unit after `scale`; a pair that was not measured is left blank.
    """
    rows = list(cells)
    found = [[cells[row].get(column) for column in columns] for row in rows]
    figure = go.Figure(
        go.Heatmap(
            z=[[_scaled(cell, scale) for cell in row] for row in found],
            text=[[_text(cell, scale) for cell in row] for row in found],
            x=[plain(name) for name in columns],
            y=[plain(name) for name in rows],
            zmin=limits[0],
            zmax=limits[1],
            texttemplate="%{text}",
            hoverinfo="x+y+text",
            colorscale=[[0, "#e45756"], [0.5, "#f5f0e6"], [1, "#54a24b"]],
            xgap=2,
            ygap=2,
            textfont={"color": "#222222"},
        )
    )
    figure.update_layout(
        height=120 + 44 * len(rows),
        margin={"l": 170, "r": 16, "t": 24, "b": 60},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        font={"family": "system-ui, sans-serif", "size": 12},
    )
    figure.update_xaxes(title=labels[1], type="category")
    return figure.update_yaxes(title=labels[0], autorange="reversed", type="category")


def _scaled(cell: Mapping[str, Any] | None, scale: float) -> float | None:
    return None if cell is None or cell["value"] is None else scale * float(cell["value"])


def _text(cell: Mapping[str, Any] | None, scale: float) -> str:
    if cell is None or cell["value"] is None:
        return ""
    digits = 0 if scale > 1 else 2
    value, low, high = (
        None if cell[key] is None else f"{scale * cell[key]:.{digits}f}" for key in ("value", "low", "high")
    )
    return f"{value}" if low is None or high is None else f"{value}<br>({low} – {high})"


def curves(series: Mapping[str, Sequence[float] | None], label: str, line: float | None = None) -> go.Figure:
    """Draw the series that there are, by block."""
    return by_block({name: values for name, values in series.items() if values is not None}, label, chance=line)
