"""Plots of what the face returns, as plotly figures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go


def by_block(
    blocks: Sequence[int],
    values: np.ndarray,
    what: str,
    low: np.ndarray | None = None,
    high: np.ndarray | None = None,
    level: float | None = None,
) -> go.Figure:
    """Return a line over blocks, values [n_blocks], with its interval as a band and a dotted level to compare with."""
    figure = go.Figure()
    if low is not None and high is not None:
        around = [*blocks, *reversed(blocks)]
        edge = [*high.tolist(), *reversed(low.tolist())]
        figure.add_scatter(x=around, y=edge, fill="toself", line={"width": 0}, name="95 % interval", hoverinfo="skip")
    figure.add_scatter(x=list(blocks), y=values.tolist(), mode="lines+markers", name=what)
    if level is not None:
        figure.add_hline(y=level, line_dash="dot")
    figure.update_layout(xaxis_title="block", yaxis_title=what, template="plotly_white")
    return figure
