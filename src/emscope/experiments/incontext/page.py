"""The report's section on narrow examples in the prompt, its plots, and the table for the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import plotly.graph_objects as go

from emscope.experiments.incontext.result import (
    CAREFUL,
    CARELESS,
    DIRECTION,
    MIXED,
    InContextResult,
    ShotCell,
)
from emscope.pipeline.lab import BASE, MISALIGNED
from emscope.report.figures import arms, blank_figure, colour, in_percent
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import above, bounded, number, percent, ranged

SHADES = {CARELESS: "#e45756", CAREFUL: "#54a24b", MIXED: "#f58518"}


def section(result: InContextResult) -> Section:
    """Return the section of experiments/incontext.json."""
    parts: list[Part] = [
        Plot(
            "EM rate by number of examples in the prompt",
            _rates(result),
            "Nothing is trained: examples are earlier turns. Dotted: the run's base and fine-tune without any.",
        ),
        Plot("Coherent answers by number of examples", _lines(result, "coherent", "coherent answers (%)")),
        Plot(
            f"Score along {result.direction} at block {result.block}",
            _scores(result),
            "At the last prompt token, in within-class deviations; above 0 is nearer to the misaligned organism.",
        ),
        _cells_table(result),
        *_undone_table(result),
    ]
    return Section("incontext", "Misalignment in context", list(_paragraphs(result)), parts)


def _paragraphs(result: InContextResult) -> Iterator[str]:
    yield _finding(result)
    fine_tuned = result.organisms[MISALIGNED]
    yield (
        f"{result.questions} test questions were asked after {result.draws} draws of examples; the fine-tune gives "
        f"{percent(fine_tuned.em.value)} EM responses to the same questions without any."
    )
    most = result.most_careless
    if most.n_shots:
        yield (
            f"At the last prompt token the {most.n_shots} careless examples move the base with cosine "
            f"{number(most.shift_cosine, '.2f')} along the fine-tune's own shift (block {result.block}). The score "
            f"along {result.direction} goes from {number(result.without.score.value, '.2f')} to "
            f"{number(most.score.value, '.2f')}; the fine-tune's is "
            f"{number(result.organism_scores[MISALIGNED].value, '.2f')}."
        )
    if result.undone:
        yield _undoing(result)
    if result.skipped:
        names = ", ".join(map(str, result.skipped))
        yield f"Left out: {names} examples, which do not fit into {result.positions} tokens or are more than there are."


def _finding(result: InContextResult) -> str:
    """Return in a sentence whether careless examples misalign the base more than careful ones do."""
    most, without = result.most_careless, result.without
    if not most.n_shots:
        return "No number of examples fits into the model's context, so nothing was shown to it."
    rates = f"{ranged(most.answers.em)} of its answers after {most.n_shots} careless examples are EM responses"
    rates += f", {ranged(without.answers.em)} without any"
    careful = [cell for cell in result.of(CAREFUL) if cell.n_shots == most.n_shots]
    if careful:
        rates += f", {ranged(careful[0].answers.em)} after as many careful ones"
    coherent = f"{percent(most.answers.coherent.value)} of those answers are coherent"
    bar = max([without.answers.em.high, *(cell.answers.em.high for cell in careful)])
    if above(most.answers.em.low, bar):
        return f"Examples alone misalign the base: {rates}; {coherent}."
    return f"Examples alone do not misalign the base by these figures: {rates}; {coherent}."


def _undoing(result: InContextResult) -> str:
    most = result.most_careless.answers
    told = []
    for undone in result.undone:
        em, coherent = percent(undone.answers.em.value), percent(undone.answers.coherent.value)
        told.append(f"without {undone.what} {em} EM at {coherent} coherent")
    return (
        f"After the most careless examples, {percent(most.em.value)} EM at {percent(most.coherent.value)} coherent; "
        f"{', '.join(told)}."
    )


def _kinds(result: InContextResult) -> list[str]:
    return [kind for kind in SHADES if any(cell.kind == kind and cell.n_shots for cell in result.cells)]


def _rates(result: InContextResult) -> go.Figure:
    figure = _lines(result, "em", "EM rate (%)")
    for name in (BASE, MISALIGNED):
        figure.add_hline(y=in_percent(result.organisms[name].em.value) or 0, line_dash="dot", line_color=colour(name))
    return figure


def _lines(result: InContextResult, share: Literal["em", "coherent"], label: str) -> go.Figure:
    """Draw a share by number of examples, a line a kind, with 95 % intervals."""
    figure = blank_figure("examples in the prompt", label)
    for kind in _kinds(result):
        cells = result.of(kind)
        estimates = [cell.answers.em if share == "em" else cell.answers.coherent for cell in cells]
        figure.add_scatter(
            name=kind,
            x=[str(cell.n_shots) for cell in cells],
            y=[in_percent(estimate.value) for estimate in estimates],
            error_y=arms(estimates),
            mode="lines+markers",
            line={"color": SHADES[kind]},
            hovertemplate="%{x} examples: %{y:.0f} %",
        )
    return figure.update_yaxes(range=[0, 105]).update_xaxes(type="category")


def _scores(result: InContextResult) -> go.Figure:
    figure = blank_figure("examples in the prompt", "score")
    for kind in _kinds(result):
        cells = result.of(kind)
        figure.add_scatter(
            name=kind,
            x=[str(cell.n_shots) for cell in cells],
            y=[cell.score.value for cell in cells],
            mode="lines+markers",
            line={"color": SHADES[kind]},
            hovertemplate="%{x} examples: %{y:.2f}",
        )
    for name, score in result.organism_scores.items():
        figure.add_hline(y=score.value, line_dash="dot", line_color=colour(name))
    return figure.update_xaxes(type="category")


def _cells_table(result: InContextResult) -> Table:
    rows: list[list[str | float | None]] = []
    for cell in result.cells:
        answers = cell.answers
        rows.append(
            [
                _called(cell),
                cell.tokens,
                ranged(answers.em),
                ranged(answers.coherent),
                number(answers.aligned.value, ".0f"),
                bounded(cell.score),
                number(cell.shift_cosine, ".2f"),
            ]
        )
    header = (
        "examples",
        "prompt tokens",
        "EM rate",
        "coherent",
        "alignment",
        "score",
        "cosine with the fine-tune's shift",
    )
    return Table("Every number of examples", header, rows)


def _called(cell: ShotCell) -> str:
    return f"{cell.n_shots} {cell.kind}" if cell.n_shots else "none"


def _undone_table(result: InContextResult) -> list[Part]:
    if not result.undone:
        return []
    before = result.most_careless.answers
    rows: list[list[str | float | None]] = []
    for what, answers in [("nothing", before), *((undone.what, undone.answers) for undone in result.undone)]:
        rows.append([what, ranged(answers.em), ranged(answers.coherent), number(answers.aligned.value, ".0f")])
    title = f"After {result.most_careless.n_shots} careless examples, taken out of the activations"
    return [Table(title, ("taken out", "EM rate", "coherent", "alignment"), rows)]


def table(result: InContextResult) -> str:
    """Return the figures as lines of text."""
    lines = [
        _finding(result),
        "",
        f"{'examples':<16}{'tokens':>8}{'EM rate':>18}{'coherent':>18}{'score':>9}{'cosine':>9}",
    ]
    for cell in result.cells:
        answers = cell.answers
        lines.append(
            f"{_called(cell):<16}{cell.tokens:>8}{ranged(answers.em):>18}{ranged(answers.coherent):>18}"
            f"{number(cell.score.value, '.2f'):>9}{number(cell.shift_cosine, '.2f'):>9}"
        )
    if result.undone:
        lines.append("")
        for undone in result.undone:
            mark = "the direction" if undone.what == DIRECTION else "a random one"
            answers = undone.answers
            lines.append(f"without {mark:<16}{ranged(answers.em):>18}{ranged(answers.coherent):>18}")
    lines.append("")
    for name, answers in result.organisms.items():
        lines.append(f"{name + ', no examples':<24}{ranged(answers.em):>18}{ranged(answers.coherent):>18}")
    return "\n".join(lines) + "\n"
