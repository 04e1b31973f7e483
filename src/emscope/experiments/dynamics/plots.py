"""Plots of a training's course: curves with their changes, the order of the changes, the adapters' path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go

from emscope.report.figures import blank_figure, plain

SHADES = ("#e45756", "#4c78a8", "#54a24b", "#b279a2", "#f58518", "#72b7b2", "#9d755d", "#bab0ac")
STEP = "optimiser step"


def curves(by_name: Mapping[str, Mapping[str, Any]], label: str, seeds: Sequence[int]) -> go.Figure:
    """Each training's curve with its pointwise interval and its change-point; those on careful answers are thin."""
    figure = blank_figure(STEP, label, height=380)
    for shade, (name, curve) in zip(SHADES, by_name.items(), strict=False):
        for number, (seed, training) in enumerate(zip(seeds, curve["trainings"], strict=True)):
            if training["low"] is not None:
                _band(figure, training, shade)
            figure.add_scatter(
                name=name,
                legendgroup=name,
                showlegend=not number,
                x=training["times"],
                y=training["values"],
                mode="lines+markers",
                line={"color": shade, "dash": _dash(number)},
                marker={"size": 4},
                hovertemplate=f"seed {seed}, step %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
            )
            change = training["change"]
            if change and change["transition"]:
                figure.add_vline(x=change["at"], line={"color": shade, "width": 1, "dash": "dot"})
        for number, training in enumerate(curve["controls"]):
            figure.add_scatter(
                name=f"{name}, trained on careful answers",
                showlegend=not number,
                x=training["times"],
                y=training["values"],
                mode="lines",
                opacity=0.6,
                line={"color": shade, "dash": _dash(number), "width": 1},
                hovertemplate=f"careful, step %{{x}}: %{{y:.3g}}<extra>{name}</extra>",
            )
    return figure


def _dash(number: int) -> str:
    return ("solid", "dash", "dot", "dashdot")[number % 4]


def _band(figure: go.Figure, training: Mapping[str, Any], shade: str) -> None:
    there = [row for row in zip(training["times"], training["low"], training["high"], strict=True) if None not in row]
    times, low, high = zip(*there, strict=True)
    figure.add_scatter(
        x=[*times, *times[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        fillcolor=shade,
        opacity=0.08,
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        showlegend=False,
    )


def against_reference(by_name: Mapping[str, Mapping[str, Any]], label: str) -> go.Figure:
    """The mean over trainings of each curve, and of the same moves in random order (dotted)."""
    figure = blank_figure(STEP, label)
    for shade, (name, curve) in zip(SHADES, by_name.items(), strict=False):
        for key, dash, what in (("values", "solid", ""), ("reference", "dot", ", moves in random order")):
            if curve["trainings"][0][key] is not None:
                mean = _mean(curve, key)
                figure.add_scatter(
                    name=f"{name}{what}",
                    x=list(mean),
                    y=list(mean.values()),
                    mode="lines",
                    line={"color": shade, "dash": dash},
                )
    return figure


def _mean(curve: Mapping[str, Any], key: str = "values") -> dict[float, float | None]:
    """Return the mean over trainings at each step that all of them have."""
    trainings = [dict(zip(training["times"], training[key], strict=True)) for training in curve["trainings"]]
    shared = [step for step in trainings[0] if all(step in training for training in trainings)]
    table = np.array([[training[step] for step in shared] for training in trainings], dtype=float)
    means = table.mean(axis=0).tolist()
    return {step: mean if np.isfinite(mean) else None for step, mean in zip(shared, means, strict=True)}


def together(by_name: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Mean curves over trainings, each from 0 at its first checkpoint to 1 at its last: which is ahead of which."""
    figure = blank_figure(STEP, "share of the whole change", height=400)
    for shade, (name, curve) in zip(SHADES, by_name.items(), strict=False):
        points = [(time, value) for time, value in _mean(curve).items() if value is not None]
        first, last = (points[0][1], points[-1][1]) if points else (0.0, 0.0)
        if first != last:
            shares = [(value - first) / (last - first) for _, value in points]
            figure.add_scatter(
                name=name,
                x=[time for time, _ in points],
                y=shares,
                mode="lines+markers",
                line={"color": shade},
                marker={"size": 4},
            )
    return figure


def change_points(by_name: Mapping[str, Mapping[str, Any]], seeds: Sequence[int], last: int) -> go.Figure:
    """Each training's change-point with its 95 % interval; hollow where the curve shows no transition."""
    figure = blank_figure(STEP, "", height=120 + 34 * len(by_name))
    for number, seed in enumerate(seeds):
        rows = [(name, curve["trainings"][number]["change"]) for name, curve in by_name.items()]
        there = [(name, change) for name, change in rows if change and change["at"] is not None]
        figure.add_scatter(
            name=f"seed {seed}",
            x=[change["at"] for _, change in there],
            y=[name for name, _ in there],
            mode="markers",
            marker={
                "color": SHADES[number % len(SHADES)],
                "size": 9,
                "symbol": ["circle" if change["transition"] else "circle-open" for _, change in there],
            },
            error_x={
                "type": "data",
                "symmetric": False,
                "thickness": 1,
                "color": SHADES[number % len(SHADES)],
                "array": [change["high"] - change["at"] for _, change in there],
                "arrayminus": [change["at"] - change["low"] for _, change in there],
            },
        )
    figure.update_layout(scattermode="group", margin={"l": 260, "r": 16, "t": 24, "b": 48})
    figure.update_xaxes(range=[0, last])
    return figure.update_yaxes(autorange="reversed")


def order_matrix(names: Sequence[str], pairs: Sequence[Mapping[str, Any]]) -> go.Figure:
    """How likely the row's change comes before the column's."""
    table = np.full((len(names), len(names)), np.nan)
    place = {name: number for number, name in enumerate(names)}
    for pair in pairs:
        one, two = place[pair["first"]], place[pair["second"]]
        table[one, two], table[two, one] = pair["probability"], 1 - pair["probability"]
    figure = blank_figure("is before the change of …", "the change of …", height=140 + 34 * len(names))
    figure.add_heatmap(
        z=table,
        x=list(names),
        y=list(names),
        zmin=0,
        zmax=1,
        colorscale="RdBu_r",
        xgap=1,
        ygap=1,
        texttemplate="%{z:.2f}",
        colorbar={"title": "probability"},
    )
    figure.update_layout(margin={"l": 220, "r": 16, "t": 24, "b": 130})
    return figure.update_yaxes(autorange="reversed")


def path(paths: Mapping[str, Mapping[str, Any]], steps: Sequence[int]) -> go.Figure:
    """The checkpoints of each training on the first two principal components of its B matrices."""
    figure = blank_figure("first component", "second component", height=400)
    for number, (seed, found) in enumerate(paths.items()):
        points = found["coordinates"]
        figure.add_scatter(
            name=f"seed {seed}",
            x=[point[0] for point in points],
            y=[point[1] for point in points],
            mode="lines+markers",
            line={"color": SHADES[number % len(SHADES)]},
            text=[f"step {step}" for step in steps],
            hovertemplate="%{text}<extra></extra>",
        )
    return figure


def matrices(modules: Sequence[str], values: Sequence[Sequence[float | None]], steps: Sequence[int]) -> go.Figure:
    """A figure of every adapter matrix, by module and step."""
    figure = blank_figure(STEP, "adapted module", height=max(240, min(900, 60 + 4 * len(modules))))
    short = [plain(name.removeprefix("model.layers.")) for name in modules]
    figure.add_heatmap(
        z=list(values), x=list(steps), y=short, zmin=0, zmax=1, colorscale="Viridis", colorbar={"title": "cosine"}
    )
    figure.update_layout(margin={"l": 150, "r": 16, "t": 24, "b": 48})
    return figure


def scaled(rows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """Mean alignment against the factor on the adapter, by checkpoint; solid in domain, dotted out of it."""
    figure = blank_figure("factor on the adapter's update", "mean alignment (0-100)")
    steps = sorted({row["step"] for row in rows})
    for shade, step in zip(SHADES, steps, strict=False):
        for side, dash in (("in", "solid"), ("out", "dot")):
            mine = sorted(
                (row for row in rows if row["step"] == step and row["side"] == side), key=lambda row: row["factor"]
            )
            values = [row["aligned"] for row in mine]
            figure.add_scatter(
                name=f"step {step}, {side} of domain" if side == "out" else f"step {step}, in domain",
                x=[row["factor"] for row in mine],
                y=[value["value"] for value in values],
                mode="lines+markers",
                line={"color": shade, "dash": dash},
                error_y={
                    "type": "data",
                    "symmetric": False,
                    "thickness": 1,
                    "array": [value["high"] - value["value"] for value in values],
                    "arrayminus": [value["value"] - value["low"] for value in values],
                },
            )
    return figure.update_yaxes(range=[0, 103])
