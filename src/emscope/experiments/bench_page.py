"""Words, plots and table cells that the pages of the steering experiments share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import plotly.graph_objects as go

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.experiments.bench import label_of
from emscope.interventions.steering import steer
from emscope.pipeline.lab import BASE, MISALIGNED
from emscope.report.figures import blank_figure
from emscope.report.figures import plain as as_text
from emscope.report.section import Table
from emscope.report.wording import MISSING, above, number, percent, ranged
from emscope.residual.directions import Directions
from emscope.statistics import Estimate

Measure = Literal["kl", "aligned", "coherent", "em"]

HEADER = ("nats a token", "alignment", "coherent", "EM rate", "restored")
MOSTLY = 0.5
"""Below this share of coherent answers a restored share is said to rest on incoherent ones."""
RATIO_BAR = 10.0
"""How many times the base's EM rate is called a clear induction."""
COHERENT_BAR = 0.8
"""Share of coherent answers that is called whole: four in five."""
MOST_ANSWERS = 5
"""Coefficients whose answers are shown to one question, beside the answer without steering."""
SHADES = {"alignment": "#4c78a8", "coherent": "#9d9d9d", "EM rate": "#e45756"}


class Figures(Protocol):
    """What an organism does, with or without steering, such as `SteeredFigures` or a row of a result."""

    @property
    def kl(self) -> Estimate:
        """Disturbance, nats a token."""

    @property
    def aligned(self) -> Estimate:
        """Mean alignment, 0 to 100."""

    @property
    def coherent(self) -> Estimate:
        """Share of coherent answers."""

    @property
    def em(self) -> Estimate:
        """EM rate."""


def place(blocks: Sequence[int]) -> str:
    """Return one block, or a range of blocks, in words."""
    return f"block {blocks[0]}" if len(blocks) == 1 else f"blocks {blocks[0]}-{blocks[-1]}"


def direction_words(name: str) -> str:
    """Return a direction of a run in words; other names stay what they are."""
    contrast, _, rest = name.partition("-")
    sides = {"control": "misaligned − control", "model": "misaligned − base"}
    if contrast not in sides or not rest:
        return name
    return f"random like {sides[contrast]}" if rest.endswith("-random") else sides[contrast]


def is_misaligned(unsteered: Mapping[str, Figures]) -> bool:
    """Say whether the fine-tuned organism has a higher EM rate than the base: one that has not lost nothing."""
    return above(unsteered[MISALIGNED].em.low, unsteered[BASE].em.value)


def organism_words(name: str, unsteered: Mapping[str, Figures]) -> str:
    """Return an organism of the run in words that fit what it does."""
    if name == MISALIGNED:
        return "misaligned organism" if is_misaligned(unsteered) else "fine-tuned organism"
    return "base" if name == BASE else f"{name} organism"


def restored_clause(restored: Estimate | None, coherent: Estimate, before: Estimate) -> str:
    """Return what of an organism's alignment is restored, and how coherent the answers are that it rests on.

    `before` is its coherent share without the intervention.
    """
    if restored is None or ranged(restored) == MISSING:
        return "how much of its alignment is restored cannot be computed"
    clause = f"{ranged(restored)} of its alignment is restored"
    if above(MOSTLY, coherent.value):
        return f"{clause}, but by mostly incoherent answers ({percent(coherent.value)} coherent)"
    return f"{clause}, and {percent(coherent.value)} of its answers are coherent (before: {percent(before.value)})"


def _restored_cell(restored: Estimate | None, coherent: Estimate) -> str | None:
    """Return a restored share for a table, where the coherent share stands in the same row."""
    if restored is None:
        return None
    share = ranged(restored)
    return f"{share}, incoherent" if share != MISSING and above(MOSTLY, coherent.value) else share


def cells_of(figures: Figures, restored: Estimate | None = None) -> list[str | float | None]:
    """Return the cells under HEADER."""
    return [
        figures.kl.value,
        figures.aligned.value,
        ranged(figures.coherent),
        ranged(figures.em),
        _restored_cell(restored, figures.coherent),
    ]


def scale_of(measure: Measure) -> float:
    """Return what a figure is multiplied with on a plot: shares are shown in percent."""
    return 100 if measure in ("coherent", "em") else 1


def values_of(rows: Sequence[Figures], measure: Measure) -> np.ndarray:
    """Return one figure of many rows in the unit of plots, [n_rows]; NaN where it could not be computed."""
    values = [estimate.value for estimate in map(attrgetter(measure), rows)]
    return scale_of(measure) * np.array(values, dtype=float)


def error_bars(estimates: Sequence[Estimate], scale: float) -> dict[str, object]:
    """Return plotly's error bars from estimates; none where an interval is missing."""
    ends = np.array(list(map(attrgetter("low", "value", "high"), estimates)), dtype=float)
    below, over = scale * np.nan_to_num(np.abs(np.diff(ends.reshape(-1, 3), axis=1))).T
    return {"type": "data", "symmetric": False, "array": over, "arrayminus": below, "thickness": 1, "color": "#888888"}


def add_line(figure: go.Figure, name: str, x: Any, rows: Sequence[Figures], measure: Measure, shade: str) -> None:
    """Add a line through one figure of many rows, with 95 % intervals."""
    figure.add_scatter(
        name=as_text(name),
        x=x,
        y=values_of(rows, measure),
        mode="lines+markers",
        line={"color": shade},
        error_y=error_bars(list(map(attrgetter(measure), rows)), scale_of(measure)),
    )


def side_by_side(columns: Mapping[str, Figures]) -> go.Figure:
    """Draw alignment, coherence and EM rate of several states of organisms as groups of bars, 0 to 100."""
    figure = blank_figure("", "alignment, or % of answers", height=380)
    names = list(map(as_text, columns))
    rows = list(columns.values())
    measures: tuple[tuple[str, Measure], ...] = (("alignment", "aligned"), ("coherent", "coherent"), ("EM rate", "em"))
    for label, measure in measures:
        values = values_of(rows, measure)
        figure.add_bar(
            name=label,
            x=names,
            y=values,
            text=[f"{value:.0f}" if np.isfinite(value) else MISSING for value in values],
            textposition="inside",
            textangle=0,
            insidetextanchor="start",
            marker_color=SHADES[label],
            error_y=error_bars(list(map(attrgetter(measure), rows)), scale_of(measure)),
        )
    return figure.update_yaxes(range=[0, 103])


@dataclass(frozen=True)
class Steered:
    """An organism on the dial at one place, and what was chosen there.

    Attributes:
        organism: its name.
        directions: what is added.
        blocks: where.
        coefficient: the chosen one.
    """

    organism: str
    directions: Directions
    blocks: tuple[int, ...]
    coefficient: float


def answer_tables(folder: Path, name: str, steered: Steered, tried: Sequence[float], title: str) -> list[Table]:
    """Return a table of answers to the first question of the dial at several coefficients; none where none are kept.

    Args:
        folder: the run's folder.
        name: the experiment whose table of answers is read.
        steered: the organism and what was chosen.
        tried: the dial's coefficients.
        title: of the table.
    """
    first: dict[str, JudgedResponse] = {}
    for answer in read_table(folder / "judgements" / f"{name}.parquet", JudgedResponse):
        first.setdefault(answer.organism, answer)  # the dial comes first in the table, and its first question first

    by_coefficient: dict[float, JudgedResponse] = {}
    for coefficient in shown_coefficients(steered.coefficient, tried):
        label = label_of(steered.organism, steer(steered.directions, steered.blocks, coefficient))
        if label in first:
            by_coefficient[coefficient] = first[label]
    if not by_coefficient:
        return []

    asked = next(iter(by_coefficient.values()))
    for answer in read_table(folder / "judgements" / f"{steered.organism}.parquet", JudgedResponse):
        if (answer.question_id, answer.sample) == (asked.question_id, asked.sample):
            by_coefficient[0.0] = answer

    rows: list[list[str | float | None]] = []
    for coefficient, answer in sorted(by_coefficient.items(), key=lambda pair: pair[0]):
        scores = f"aligned {number(answer.aligned, '.0f')}, coherent {number(answer.coherent, '.0f')}"
        rows.append([f"{coefficient:+g}: {scores}" if coefficient else f"0: {scores}", answer.response])
    header = ("coefficient", f"answer to: {asked.question}")
    note = f"The first of the dial's development questions; {steered.coefficient:+g} was chosen."
    return [Table(title, header, rows, note)]


def shown_coefficients(chosen: float, tried: Sequence[float]) -> list[float]:
    """Return the coefficients whose answers are shown: the chosen one, the ends of the dial, and some between."""
    ranked = dict.fromkeys([chosen, min(tried), max(tried), *sorted(tried)])
    return list(ranked)[:MOST_ANSWERS]
