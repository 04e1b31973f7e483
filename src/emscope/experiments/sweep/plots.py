"""Heatmaps of a sweep: block against construction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from emscope.report.figures import blank_figure


def heatmap(
    rows: Mapping[str, Sequence[float | None]],
    blocks: Sequence[int],
    label: str,
    bounds: tuple[float, float],
    marked: Mapping[str, int],
) -> go.Figure:
    """One row a construction, one column a block; the chosen block of each row has a ring.

    `bounds` are the values of the two ends of the colour scale: grey in the middle, red high, blue low.
    """
    names = list(rows)
    figure = blank_figure("block", "", height=120 + 26 * len(names))
    figure.add_heatmap(
        z=[list(values) for values in rows.values()],
        x=list(blocks),
        y=names,
        zmin=bounds[0],
        zmax=bounds[1],
        colorscale=[[0, "#4c78a8"], [0.5, "#dddddd"], [1, "#e45756"]],
        colorbar={"title": {"text": label, "side": "right"}, "thickness": 12},
        hovertemplate="%{y}<br>block %{x}: %{z:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=[marked[name] for name in names],
        y=names,
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 11, "color": "#000000", "line": {"width": 2}},
    )
    figure.update_layout(margin={"l": 220, "r": 16, "t": 24, "b": 48})
    return figure.update_yaxes(autorange="reversed")


def bounded_lines(
    series: Mapping[str, Mapping[str, Sequence[float | None]]], blocks: Sequence[int], label: str, chance: float
) -> go.Figure:
    """One line a series against the block, with its 95 % interval as a band and a dotted line at chance."""
    figure = blank_figure("block", label)
    colours = ("#4c78a8", "#e45756", "#54a24b", "#b279a2")
    for (name, values), shade in zip(series.items(), colours, strict=False):
        band = [*values["high"], *reversed(values["low"])]
        figure.add_scatter(
            x=[*blocks, *reversed(blocks)],
            y=band,
            fill="toself",
            fillcolor=shade,
            opacity=0.15,
            line={"width": 0},
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(name=name, x=list(blocks), y=list(values["value"]), mode="lines", line={"color": shade})
    figure.add_hline(y=chance, line_dash="dot", line_color="#888888")
    return figure
