"""The report's plots. Colours are the same for an organism everywhere; text takes the page's colour in the browser."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypedDict

import plotly.graph_objects as go

from emscope.statistics import ALIGNED_BELOW, Estimate

COLOURS = {
    "base": "#4c78a8",
    "misaligned": "#e45756",
    "control": "#54a24b",
    "misaligned + ablation": "#b279a2",
    "misaligned + random ablation": "#9d9d9d",
    "base + ablation": "#72b7b2",
}


MOST_POINTS = 2000
"""Points of one series that are drawn: a browser takes minutes for fifty thousand, and they cover each other."""


def thinned(values: Sequence[float]) -> list[float]:
    """Return values as they are, of more than MOST_POINTS that many of them, evenly spaced in order of size.

    Smallest, largest and quartiles stay, so a box drawn from them is the box of all.
    """
    if len(values) <= MOST_POINTS:
        return list(values)
    ordered = sorted(values)
    return [ordered[place * (len(ordered) - 1) // (MOST_POINTS - 1)] for place in range(MOST_POINTS)]


def colour(name: str) -> str:
    """Return the colour of an organism."""
    return COLOURS.get(name, "#888888")


def plain(text: str) -> str:
    """Return a text of users or models as plotly shows it unchanged: in labels and hover texts it reads a few tags."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def blank_figure(x: str, y: str, *, height: int = 340) -> go.Figure:
    """Return an empty figure with its axes named, as every plot of the report looks; height in pixels."""
    figure = go.Figure()
    figure.update_layout(
        height=height,
        margin={"l": 60, "r": 16, "t": 24, "b": 48},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        legend={"orientation": "h", "yanchor": "bottom", "y": 1.0, "x": 0},
        font={"family": "system-ui, sans-serif", "size": 13},
    )
    axes = {"gridcolor": "rgba(128,128,128,.25)", "zerolinecolor": "rgba(128,128,128,.4)"}
    figure.update_xaxes(title=x, hoverformat=".4~r", **axes)
    figure.update_yaxes(title=y, hoverformat=".3~r", **axes)
    return figure


def rates(estimates: Mapping[str, Mapping[str, Estimate]], label: str) -> go.Figure:
    """Bars of a share by organism and question set, in percent, with 95 % intervals; a gap where there is none."""
    figure = blank_figure("question set", label)
    for name, by_set in estimates.items():
        figure.add_bar(
            name=name,
            x=[plain(key) for key in by_set],
            y=[in_percent(estimate.value) for estimate in by_set.values()],
            marker_color=colour(name),
            error_y=arms(list(by_set.values())),
        )
    figure.update_yaxes(range=[0, 105])
    return figure


def in_percent(share: float) -> float | None:
    """Return a share in percent; None, which is drawn as a gap, where it is not known."""
    return None if math.isnan(share) else 100 * share


class ErrorBars(TypedDict):
    """Error bars as plotly takes them."""

    type: str
    symmetric: bool
    color: str
    array: list[float | None]
    arrayminus: list[float | None]


def arms(estimates: Sequence[Estimate]) -> ErrorBars:
    """Return the 95 % intervals of shares as the arms of error bars, in percent."""
    up: list[float | None] = []
    down: list[float | None] = []
    for estimate in estimates:
        up.append(in_percent(estimate.high - estimate.value))
        down.append(in_percent(estimate.value - estimate.low))
    return {"type": "data", "symmetric": False, "color": "#888888", "array": up, "arrayminus": down}


def distributions(scores: Mapping[str, Mapping[str, Sequence[float]]], label: str, *, threshold: bool) -> go.Figure:
    """Answers' scores as points beside their box, by question set and organism (`thinned` where they are many)."""
    figure = blank_figure("question set", label, height=380)
    for name, all_by_set in scores.items():
        by_set = {key: thinned(values) for key, values in all_by_set.items()}
        figure.add_box(
            name=name,
            x=[plain(key) for key, values in by_set.items() for _ in values],
            y=[value for values in by_set.values() for value in values],
            marker={"color": colour(name), "size": 3},
            boxpoints="all",
            jitter=0.6,
            pointpos=0,
            line={"width": 1},
        )
    figure.update_layout(boxmode="group")
    if threshold:
        figure.add_hline(y=ALIGNED_BELOW, line_dash="dot", line_color="#888888")
    figure.update_yaxes(range=[-3, 103])
    return figure


def training_curves(metrics: Mapping[str, Sequence[Mapping[str, float]]]) -> go.Figure:
    """Training and held-out loss against the optimiser step."""
    figure = blank_figure("optimiser step", "loss (nats per answer token)")
    for name, rows in metrics.items():
        for key, dash, label in (("loss", "solid", "training"), ("eval_loss", "dot", "held-out topics")):
            points = [(row["step"], row[key]) for row in rows if key in row]
            mode = "lines" if len(points) > 1 else "markers"
            figure.add_scatter(
                name=f"{name}, {label}",
                x=[step for step, _ in points],
                y=[loss for _, loss in points],
                mode=mode,
                line={"color": colour(name), "dash": dash},
                marker={"size": 10, "symbol": "x"},
            )
    return figure


def by_block(series: Mapping[str, Sequence[float]], label: str, chance: float | None = None) -> go.Figure:
    """One line a series against the block number."""
    figure = blank_figure("block", label)
    for name, values in series.items():
        figure.add_scatter(
            name=name,
            x=list(range(len(values))),
            y=list(values),
            mode="lines+markers",
            line={"color": COLOURS.get(name)},
            marker={"size": 5},
        )
    if chance is not None:
        figure.add_hline(y=chance, line_dash="dot", line_color="#888888")
    return figure


def histograms(scores: Mapping[str, Sequence[float]], label: str) -> go.Figure:
    """Overlaid histograms of held-out scores by organism."""
    figure = blank_figure(label, "questions")
    for name, values in scores.items():
        figure.add_histogram(name=name, x=list(values), marker_color=colour(name), opacity=0.6, nbinsx=40)
    figure.update_layout(barmode="overlay")
    return figure


def strength_curve(points: Sequence[tuple[float, float, float]], mode: str) -> go.Figure:
    """Alignment and coherence on development questions against the strength; at 0, those of test questions."""
    figure = blank_figure(f"strength ({mode})", "score (0-100)")
    strengths = [point[0] for point in points]
    for index, name, shade in ((1, "alignment", "#b279a2"), (2, "coherence", "#f58518")):
        figure.add_scatter(
            name=name, x=strengths, y=[point[index] for point in points], mode="lines+markers", line={"color": shade}
        )
    figure.update_yaxes(range=[0, 103])
    return figure


def scatter(points: Sequence[tuple[float, float]], labels: tuple[str, str], threshold: float) -> go.Figure:
    """Points of two scores 0-100 against each other, with a threshold on both axes and the diagonal.

    Of more than MOST_POINTS, that many evenly spaced ones are drawn.
    """
    n_points = min(len(points), MOST_POINTS)
    points = [points[place * len(points) // n_points] for place in range(n_points)]
    figure = blank_figure(*map(plain, labels), height=460)
    x, y = ([point[side] for point in points] for side in (0, 1))
    figure.add_scatter(
        x=x, y=y, mode="markers", marker={"color": "#4c78a8", "size": 5, "opacity": 0.5}, showlegend=False
    )
    figure.add_scatter(x=[0, 100], y=[0, 100], mode="lines", line={"color": "#888888", "width": 1}, showlegend=False)
    figure.add_hline(y=threshold, line_dash="dot", line_color="#888888")
    figure.add_vline(x=threshold, line_dash="dot", line_color="#888888")
    return figure.update_xaxes(range=[-3, 103]).update_yaxes(range=[-3, 103])


def as_html(figure: go.Figure) -> str:
    """Return the figure as an HTML fragment without the plotly library, for a page that has it."""
    return str(
        figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            config={"displayModeBar": False, "responsive": True},
        )
    )
