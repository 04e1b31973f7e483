"""The plots of the steering dial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from emscope.report.figures import blank_figure, colour

SHADES = ("#e45756", "#9d9d9d", "#4c78a8", "#c9c9c9")
Rows = Sequence[Mapping[str, Any]]


def dial(
    rows: Rows, unsteered: Mapping[str, Any], blocks: Sequence[int], measure: str, label: str, scale: float
) -> go.Figure:
    """One line an organism: a measure against the coefficient at one place, with 95 % intervals."""
    figure = blank_figure(f"coefficient of v at {place(blocks)} (below 0: away from the misaligned side)", label)
    for name, own in unsteered.items():
        mine = [row for row in rows if row["organism"] == name and row["blocks"] == blocks]
        points = sorted([*mine, {"coefficient": 0.0, **own}], key=lambda row: float(row["coefficient"]))
        figure.add_scatter(
            name=name,
            x=[row["coefficient"] for row in points],
            y=[scaled(row, measure, scale) for row in points],
            mode="lines+markers",
            line={"color": colour(name)},
            error_y=intervals(points, measure, scale),
        )
    return figure


def grid(rows: Rows, organism: str, measure: str, label: str, scale: float) -> go.Figure:
    """A measure of one organism by place and coefficient."""
    mine = [row for row in rows if row["organism"] == organism]
    places, sizes = (
        list(dict.fromkeys(place(row["blocks"]) for row in mine)),
        sorted({row["coefficient"] for row in mine}),
    )
    table = {(place(row["blocks"]), row["coefficient"]): scaled(row, measure, scale) for row in mine}
    values = [[table[name, size] for size in sizes] for name in places]
    figure = blank_figure("coefficient of v", "", height=280)
    figure.add_heatmap(
        z=values,
        x=[f"{size:+g}" for size in sizes],
        y=places,
        colorscale="Viridis",
        colorbar={"title": label},
        texttemplate="%{z:.0f}",
    )
    return figure.update_yaxes(type="category").update_xaxes(type="category")


def at_equal_disturbance(rows: Rows, organism: str, measure: str, label: str, scale: float, own: float) -> go.Figure:
    """One line a direction: a measure against the disturbance, on a logarithmic axis; dotted: the fine-tune's own."""
    figure = blank_figure("disturbance (nats a token)", label)
    mine = [row for row in rows if row["organism"] == organism]
    for name, shade in zip(dict.fromkeys(row["direction"] for row in mine), SHADES, strict=False):
        points = [row for row in mine if row["direction"] == name]
        figure.add_scatter(
            name=name,
            x=[row["kl"]["value"] for row in points],
            y=[scaled(row, measure, scale) for row in points],
            mode="lines+markers",
            line={"color": shade},
            error_y=intervals(points, measure, scale),
        )
    figure.add_vline(x=own, line_dash="dot", line_color="#888888")
    return figure.update_xaxes(type="log")


def place(blocks: Sequence[int]) -> str:
    """Return one block, or a range of blocks, in words."""
    return f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}"


def scaled(row: Mapping[str, Any], measure: str, scale: float) -> float | None:
    """Return a figure in the plot's unit; None where it could not be computed."""
    value = row[measure]["value"]
    return None if value is None else float(scale * value)


def intervals(points: Rows, measure: str, scale: float) -> dict[str, Any]:
    """Return plotly's error bars from estimates; none where an interval is missing."""

    def arm(point: Mapping[str, Any], end: str) -> float:
        found = point[measure]
        return 0.0 if found[end] is None or found["value"] is None else scale * abs(found[end] - found["value"])

    array, minus = ([arm(point, end) for point in points] for end in ("high", "low"))
    return {"type": "data", "symmetric": False, "array": array, "arrayminus": minus, "thickness": 1}
