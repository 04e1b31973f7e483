"""The plot of the section on second judges: the misaligned organism's EM rate by judge."""

from __future__ import annotations

from collections.abc import Sequence

import plotly.graph_objects as go

from emscope.experiments.rejudge.result import JudgeFigures
from emscope.report.figures import blank_figure, plain

COLOURS = ("#e45756", "#4c78a8", "#54a24b", "#b279a2", "#f58518", "#72b7b2")
"""The run's own judge has the misaligned organism's colour; others follow, and begin again after six."""


def misaligned_rates(judges: Sequence[JudgeFigures]) -> go.Figure:
    """Bars of the EM rate by question set and judge, in percent, with 95 % intervals; a gap where there is none."""
    figure = blank_figure("question set", "EM rate (%)")
    for number, figures in enumerate(judges):
        sets, values, above, below = [], [], [], []
        for question_set, rate in figures.em_rate["misaligned"].items():
            sets.append(plain(question_set))
            values.append(_percent(rate.value))
            above.append(_percent(rate.high - rate.value))
            below.append(_percent(rate.value - rate.low))
        figure.add_bar(
            name=plain(figures.judged_by.name),
            x=sets,
            y=values,
            marker_color=COLOURS[number % len(COLOURS)],
            error_y={"type": "data", "symmetric": False, "color": "#888888", "array": above, "arrayminus": below},
        )
    figure.update_yaxes(range=[0, 105])
    return figure


def _percent(share: float) -> float | None:
    return None if share != share else round(100 * share, 2)
