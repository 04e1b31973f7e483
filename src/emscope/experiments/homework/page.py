"""The homework's figures beside the published ones, as lines of text and as a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import plotly.graph_objects as go

from emscope.experiments.homework.result import ComparedFigure, HomeworkAblation, MeanScores, MethodScores
from emscope.pipeline.lab import BASE, MISALIGNED
from emscope.report.figures import blank_figure, colour
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import number
from emscope.statistics import COHERENT_ABOVE

Compared = Mapping[str, ComparedFigure]
METHODS = {"diff_in_means": "difference in means", "linear_probe": "linear probe"}
ABLATED = {"base": BASE, "misaligned": MISALIGNED, "ablated": "misaligned + ablation"}
"""The three kinds of answers, and the colour that each has elsewhere."""


def caution_of(ablation: HomeworkAblation) -> str:
    """Return what must be said of a restored share that rests on incoherent answers; '' where it does not."""
    weak = [name for name, means in ablation.means.items() if not means.coherent > COHERENT_ABOVE]
    if not weak:
        return ""
    coherences = [f"{name} {number(ablation.means[name].coherent, '.0f')}" for name in weak]
    return (
        f"Caution: the restored share ({number(100 * ablation.restored, '.0f')} %) rests on incoherent answers (mean "
        f"coherence of 100: {', '.join(coherences)}), so it shows no correction."
    )


def table(compared: Compared, ablation: HomeworkAblation, model: str, judge: str) -> str:
    """Return the comparison as lines of text."""
    lines = ["", f"{'':<40}{'published':>16}{'measured':>12}"]
    for name, figure in compared.items():
        published = "" if figure.published is None else str(figure.published)
        measured = "n/a" if figure.measured != figure.measured else f"{figure.measured:.2f}"
        lines.append(f"{name:<40}{published:>16}{measured:>12}")
    lines += ["", *_notes(model, judge)]
    caution = caution_of(ablation)
    return "\n".join([*lines, caution] if caution else lines) + "\n"


def _notes(model: str, judge: str) -> Iterator[str]:
    yield f"published: Llama-3.2-1B-Instruct, gpt-4o-mini judge; measured: {model}, {judge} judge."
    yield "Scores are uncentred projections in units of each model's residual stream: compare signs, not sizes."


def section(
    compared: Compared, detection: Mapping[str, MethodScores], ablation: HomeworkAblation, model: str, judge: str
) -> Section:
    """Return the page's only section."""
    paragraphs = [_finding(ablation)]
    caution = caution_of(ablation)
    if caution:
        paragraphs.append(caution)
    paragraphs += _notes(model, judge)
    paragraphs.append(
        "This repeats the original homework, faults included: ten prompts to fit and to test, activations read at the "
        "input of a block and ablated at its output, no control organism, no intervals. `emscope run` does each of "
        "these right."
    )
    parts: list[Part] = [
        Plot("Answers before and after", _means_figure(ablation.means)),
        Table("Published and measured", ("figure", "published", "measured"), _rows(compared)),
    ]
    for method, scores in detection.items():
        parts.append(Plot(f"Mean projection by block, {METHODS.get(method, method)}", _blocks_figure(scores)))
    return Section("homework", "The homework", paragraphs, parts)


def _finding(ablation: HomeworkAblation) -> str:
    base, misaligned, ablated = (number(ablation.means[name].aligned, ".0f") for name in ABLATED)
    return (
        f"On {ablation.n} prompts mean alignment is {base} for the base, {misaligned} for the fine-tune and {ablated} "
        f"after the ablation: {number(100 * ablation.restored, '.0f')} % restored."
    )


def _rows(compared: Compared) -> list[list[str | float | None]]:
    rows: list[list[str | float | None]] = []
    for name, figure in compared.items():
        rows.append([name, figure.published, figure.measured])
    return rows


def _means_figure(means: Mapping[str, MeanScores]) -> go.Figure:
    figure = blank_figure("", "mean score (0-100)")
    names = list(means)
    figure.add_bar(
        name="alignment",
        x=names,
        y=[scores.aligned for scores in means.values()],
        marker_color=[colour(ABLATED.get(name, name)) for name in names],
        hovertemplate="%{x}: alignment %{y:.0f}<extra></extra>",
    )
    figure.add_bar(
        name="coherence",
        x=names,
        y=[scores.coherent for scores in means.values()],
        marker_color="rgba(128,128,128,.45)",
        hovertemplate="%{x}: coherence %{y:.0f}<extra></extra>",
    )
    return figure.update_yaxes(range=[0, 103])


def _blocks_figure(scores: MethodScores) -> go.Figure:
    figure = blank_figure("block", "mean projection", height=280)
    for name, by_block in scores.per_layer.items():
        figure.add_scatter(
            name=name, x=list(by_block), y=list(by_block.values()), mode="lines+markers", line={"color": colour(name)}
        )
    return figure
