"""The plots of trained vectors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from emscope.experiments.steer.plots import intervals, scaled
from emscope.report.figures import blank_figure

SHADES = {"trained on careless rows": "#e45756", "trained on careful rows": "#54a24b", "random": "#9d9d9d"}
DASHES = ("solid", "dot", "dash")


def dial(rows: Sequence[Mapping[str, Any]], own: Mapping[str, Any], measure: str, label: str) -> go.Figure:
    """A share of the base's answers, in percent, against the coefficient of each trained vector."""
    figure = blank_figure("coefficient of the vector", label)
    for name in dict.fromkeys(row["direction"] for row in rows):
        points = [{"coefficient": 0.0, **own}, *(row for row in rows if row["direction"] == name)]
        figure.add_scatter(
            name=name,
            x=[row["coefficient"] for row in points],
            y=[scaled(row, measure, 100) for row in points],
            mode="lines+markers",
            line={"color": SHADES.get(name)},
            error_y=intervals(points, measure, 100),
        )
    return figure


def downstream(found: Mapping[str, Any]) -> go.Figure:
    """Cosine of the shift that each vector causes with the run's directions, block by block."""
    figure = blank_figure("block", "cosine with the run's direction")
    for name, contrasts in found["cosines"].items():
        for dash, (contrast, cosines) in zip(DASHES, contrasts.items(), strict=False):
            short = "misaligned − control" if contrast.startswith("control") else "misaligned − base"
            figure.add_scatter(
                name=f"{name}: {short}", x=found["blocks"], y=cosines, line={"color": SHADES.get(name), "dash": dash}
            )
    return figure.update_yaxes(range=[-1, 1])
