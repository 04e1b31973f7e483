"""The plots of the features section."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go

from emscope.report.figures import COLOURS, blank_figure, plain

RED, BLUE = COLOURS["misaligned"], COLOURS["base"]
GREYS = ("#9d9d9d", "#5f6b7a")
SCALE = "RdBu_r"


def pursuit(geometry: Mapping[str, Any]) -> go.Figure:
    """Cosine reached by the best n features, for the direction and for random ones with their 90 % bands."""
    figure, n = blank_figure("features taken (greedy)", "cosine with the target", height=380), geometry["n"]
    for shade, (name, band) in zip(
        GREYS, ((key, item) for key, item in geometry.items() if isinstance(item, dict)), strict=True
    ):
        figure.add_scatter(
            x=[*n, *n[::-1]],
            y=[*band["high"], *band["low"][::-1]],
            mode="lines",
            fill="toself",
            opacity=0.3,
            line={"width": 0},
            fillcolor=shade,
            hoverinfo="skip",
            showlegend=False,
        )
        figure.add_scatter(name=name, x=n, y=band["median"], mode="lines", line={"color": shade})
    figure.add_scatter(
        name="direction, random dictionary",
        x=n,
        y=geometry["direction, random dictionary"],
        mode="lines",
        line={"color": RED, "dash": "dot"},
    )
    figure.add_scatter(name="direction", x=n, y=geometry["direction"], mode="lines+markers", line={"color": RED})
    figure.update_xaxes(type="log", tickvals=n, ticktext=[str(item) for item in n])
    return figure.update_yaxes(range=[0, 1.02])


def activity(found: Mapping[str, Any]) -> go.Figure:
    """Share of a mean difference that the n most involved features write, one line for each pair of organisms."""
    figure = blank_figure("features, by share", "share of the difference", height=360)
    for name, item in found.items():
        if not isinstance(item, dict):
            continue
        n = [int(key) for key in item["curve"]]
        figure.add_scatter(name=name.replace("-vs-", " − "), x=n, y=list(item["curve"].values()), mode="lines+markers")
        figure.add_hline(y=item["all_features"], line_dash="dot", line_color="#888888", line_width=1)
    ticks = sorted({int(key) for item in found.values() if isinstance(item, dict) for key in item["curve"]})
    return figure.update_xaxes(type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks])


def pair_cosines(histograms: Mapping[str, Sequence[float]]) -> go.Figure:
    """Share of pairs by cosine, in bins from -1 to 1, on a log scale."""
    figure = blank_figure("cosine of two features", "share of pairs")
    for (name, shares), shade in zip(histograms.items(), (RED, BLUE, GREYS[0]), strict=True):
        middles = [-1 + (2 * index + 1) / len(shares) for index in range(len(shares))]
        figure.add_scatter(
            name=name,
            x=middles,
            y=[share or None for share in shares],
            mode="lines",
            line={"shape": "hvh", "color": shade},
        )
    return figure.update_yaxes(type="log", exponentformat="power")


def _hover(feature: int, words: Mapping[int, Sequence[str]]) -> str:
    return f"feature {feature}: " + " ".join(repr(plain(word)) for word in words.get(feature, ()))


def cosine_map(found: Mapping[str, Any], words: Mapping[int, Sequence[str]]) -> go.Figure:
    """Heatmap of the cosines of the top features and, last, the direction."""
    names = [_hover(feature, words) for feature in found["features"]] + ["the direction"]
    figure = blank_figure("", "", height=620)
    numbers = list(range(len(names)))
    figure.add_heatmap(
        z=found["cosines"],
        x=numbers,
        y=numbers,
        colorscale=SCALE,
        zmid=0,
        zmin=-1,
        zmax=1,
        colorbar={"title": "cosine"},
        text=[[f"{one}<br>{two}" for two in names] for one in names],
        hovertemplate="%{text}<br>cosine %{z}<extra></extra>",
    )
    labels = [str(feature) for feature in found["features"]] + ["direction"]
    figure.update_xaxes(tickvals=numbers, ticktext=labels, tickfont={"size": 8}, tickangle=90)
    return figure.update_yaxes(tickvals=numbers, ticktext=labels, tickfont={"size": 8}, autorange="reversed")


def layout(found: Mapping[str, Any], words: Mapping[int, Sequence[str]]) -> go.Figure:
    """Decoder rows in the plane, coloured by cosine with the direction, which is the star."""
    figure = blank_figure("first principal component", "second principal component", height=560)
    top, limit = found["n_top"], max(0.05, *map(abs, found["cosines"]))
    for name, part, size in (("others", slice(top, None), 5), ("most involved", slice(0, top), 11)):
        places = found["places"][part]
        figure.add_scatter(
            name=name,
            x=[place[0] for place in places],
            y=[place[1] for place in places],
            mode="markers",
            marker={
                "size": size,
                "color": found["cosines"][part],
                "colorscale": SCALE,
                "cmin": -limit,
                "cmax": limit,
                "showscale": size > 5,
                "colorbar": {"title": "cosine"},
                "line": {"width": 0.5, "color": "#888888"},
            },
            text=[_hover(feature, words) for feature in found["features"][part]],
            hovertemplate="%{text}<br>cosine with the direction %{marker.color}<extra></extra>",
        )
    star = found["direction"]
    figure.add_scatter(
        name="the direction",
        x=[star[0]],
        y=[star[1]],
        mode="markers+text",
        text=["direction"],
        textposition="top center",
        marker={"symbol": "star", "size": 18, "color": RED},
    )
    return figure
