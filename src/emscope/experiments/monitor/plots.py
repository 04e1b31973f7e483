"""Plots of the monitor and of screening."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from emscope.report.figures import blank_figure

SHADES = {
    "contrast": "#e66101",
    "verdict": "#5e3c99",
    "random": "#9d9d9d",
    "text": "#fdb863",
    "probe": "#e66101",
    "organisms": "#5e3c99",
    "judge": "#2166ac",
    "words": "#1b9e77",
}
NAMES = {
    "contrast": "direction between organisms",
    "verdict": "direction between verdicts",
    "prompt": "prompt direction",
    "text": "difference in means of the domains' text",
    "probe": "probe on the domains' text",
    "organisms": "direction between organisms",
    "judge": "offline judge (fitted on these rows)",
    "words": "words alone",
    "random": "random directions",
}


def early_auroc(
    by_tokens: Mapping[str, Mapping[str, Any]], prompt_only: Mapping[str, Any], names: Sequence[str]
) -> go.Figure:
    """AUROC against the tokens read, the prompt alone first; error bars are 95 % intervals, of random ones extremes."""
    figure = blank_figure("tokens of the answer that were read", "AUROC, EM response against other answer")
    steps = {"prompt": prompt_only, **by_tokens}
    for name in names:
        values = [steps[step][name] for step in steps]
        _line(figure, name, list(steps), values)
    _line(
        figure,
        "random",
        list(steps),
        [
            {"value": item["random"]["mean"], "low": item["random"]["least"], "high": item["random"]["most"]}
            for item in steps.values()
        ],
    )
    figure.add_hline(y=0.5, line_dash="dot", line_color="#888888")
    return figure.update_xaxes(type="category")


def precision_by_share(figures: Mapping[str, Mapping[str, Any]]) -> go.Figure:
    """Precision at recall 0.5 against the share of careless rows, with chance (the share itself)."""
    figure = blank_figure("careless rows in the data (%)", "precision at recall 0.5")
    shares = list(next(iter(figures.values())))
    labels = [f"{100 * float(share):g}" for share in shares]
    for name, by_share in figures.items():
        _line(figure, name, labels, [by_share[share] for share in shares])
    figure.add_scatter(
        name="chance",
        x=labels,
        y=[float(share) for share in shares],
        mode="lines",
        line={"color": "#888888", "dash": "dot"},
    )
    figure.update_yaxes(range=[0, 1.03])
    return figure.update_xaxes(type="category")


def precision_recall(
    precision: Mapping[str, Mapping[str, Sequence[float]]], recalls: Sequence[float], share: str
) -> go.Figure:
    """Precision against recall at one share of careless rows."""
    figure = blank_figure("recall: share of the careless rows found", "precision")
    for name, by_share in precision.items():
        figure.add_scatter(
            name=NAMES[name],
            x=list(recalls),
            y=list(by_share[share]),
            mode="lines+markers",
            line={"color": SHADES[name]},
        )
    figure.update_yaxes(range=[0, 1.03])
    return figure


def _line(figure: go.Figure, name: str, x: Sequence[str], values: Sequence[Mapping[str, Any]]) -> None:
    middle = [item["value"] for item in values]
    bars = {
        key: [None if None in (item["value"], item[end]) else abs(item[end] - item["value"]) for item in values]
        for key, end in (("array", "high"), ("arrayminus", "low"))
    }
    figure.add_scatter(
        name=NAMES[name],
        x=list(x),
        y=middle,
        mode="lines+markers",
        line={"color": SHADES[name]},
        error_y={"type": "data", "symmetric": False, "thickness": 1, **bars},
    )
