"""Steering on a page: the finding, organisms before and after side by side, the dial, and the terminal's table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from emscope.experiments.bench_page import (
    COHERENT_BAR,
    HEADER,
    RATIO_BAR,
    Figures,
    Measure,
    Steered,
    add_line,
    answer_tables,
    cells_of,
    direction_words,
    is_misaligned,
    organism_words,
    place,
    restored_clause,
    scale_of,
    side_by_side,
    values_of,
)
from emscope.experiments.steer.result import COMPARED, CORRECTION, INDUCTION, CurveRow, ReportedRow, SteerResult
from emscope.pipeline.lab import BASE, MISALIGNED
from emscope.report.figures import blank_figure, colour
from emscope.report.figures import plain as as_text
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import bounded, number, percent, ranged
from emscope.residual.directions import Directions
from emscope.statistics import Estimate

RESTORED_BAR = 0.9
"""Share of alignment that is called a whole correction: nine tenths."""
EQUAL = 0.2
"""How far from the chosen one's a disturbance may lie, as a share, and still be called the same."""
SHADES = ("#e45756", "#9d9d9d", "#4c78a8", "#c9c9c9")


def section(result: SteerResult) -> Section:
    """Return the report's section on steering: the finding and its picture first."""
    paragraphs = [
        _finding(result),
        _correction(result),
        _induction(result),
        _equal_disturbance(result),
        "How it is done: a coefficient multiplies the unnormalised difference in means v of answer tokens, which is "
        "added at every position of one block, or in equal parts at several. Disturbance is the mean KL divergence of "
        "the steered model's next-token distribution from the unsteered one's, on the unsteered model's own answers; "
        "the fine-tune's own is that between the organism and the base. Place and coefficient were chosen on "
        "development questions; tables and curves at equal disturbance are of test questions. Intervals resample "
        "questions.",
    ]
    parts = [*_pictures(result), _test_table(result), *_dial_plots(result), *_curve_plots(result), _cap_table(result)]
    return Section("steer", "The steering dial", paragraphs, parts)


def _chosen_row(result: SteerResult, organism: str, role: str) -> ReportedRow:
    return result.tested(organism, role)[0]


def _finding(result: SteerResult) -> str:
    """Say in one sentence what the correction does."""
    row = _chosen_row(result, MISALIGNED, CORRECTION)
    before, who = result.unsteered[MISALIGNED], organism_words(MISALIGNED, result.unsteered)
    steered = f"Steered by {row.coefficient:+g} v at {place(row.blocks)}, the {who}'s EM rate goes from"
    rates = f"{percent(before.em.value)} to {ranged(row.em)}"
    if not is_misaligned(result.unsteered):
        return (
            f"{steered} {rates}, with {percent(row.coherent.value)} coherent answers; without steering its EM rate is "
            "not above the base's, so there is nothing to correct."
        )
    return f"{steered} {rates}; {restored_clause(row.restored, row.coherent, before.coherent)}."


def _correction(result: SteerResult) -> str:
    """Say whether the correction is whole, and whether it costs less than the fine-tune did."""
    row, fine_tune = _chosen_row(result, MISALIGNED, CORRECTION), result.fine_tune_kl[MISALIGNED]
    bars = result.bars
    enough = "at least nine tenths of alignment" if bars.restored >= RESTORED_BAR else "less than nine tenths"
    cheap = "no more" if bars.kl_over_fine_tune <= 1 else "more"
    verdict = f"The correction restores {enough}, at {cheap} disturbance than the fine-tune's own"
    if not is_misaligned(result.unsteered):
        verdict = f"It disturbs {cheap} than the fine-tune itself"
    return f"{verdict}: {bounded(row.kl)} nats a token against {bounded(fine_tune)}."


def _induction(result: SteerResult) -> str:
    """Say whether steering the base makes it misaligned."""
    row, base, bars = _chosen_row(result, BASE, INDUCTION), result.unsteered[BASE], result.bars
    if bars.em_ratio_at_least >= RATIO_BAR:
        verdict = f"at least {RATIO_BAR:g} times as many, by the ends of both intervals"
    elif bars.em_ratio_at_least > 1:
        verdict = f"more than the base, but not surely {RATIO_BAR:g} times as many"
    else:
        verdict = "no clear effect"
    whole = "" if bars.coherent >= COHERENT_BAR else ", fewer than four in five"
    return (
        f"Steering the base by {row.coefficient:+g} v at {place(row.blocks)} gives an EM rate of {ranged(row.em)} "
        f"where the base has {ranged(base.em)}: {verdict}. {ranged(row.coherent)} of the steered answers are "
        f"coherent{whole} (the base without steering: {percent(base.coherent.value)})."
    )


def _equal_disturbance(result: SteerResult) -> str:
    """Say how the other directions were set, and whether they have the same disturbance on test questions too."""
    n_compared = n_off = 0
    for row in result.test:
        n_compared += row.role == COMPARED
        n_off += is_off(result, row)
    how = (
        "Other directions at the same block, and random ones of their lengths, were set on development questions to "
        "disturb as much as what was chosen"
    )
    if not n_off:
        return f"{how}; on test questions all are within {100 * EQUAL:.0f} % of it."
    return (
        f"{how}; on test questions {n_off} of {n_compared} are more than {100 * EQUAL:.0f} % off, and marked in "
        "the table."
    )


def is_off(result: SteerResult, row: ReportedRow) -> bool:
    """Say whether a compared direction misses the disturbance that it is compared at."""
    if row.role != COMPARED:
        return False
    (chosen,) = result.tested(row.organism, CORRECTION if row.organism == MISALIGNED else INDUCTION)
    return not abs(row.kl.value - chosen.kl.value) <= EQUAL * chosen.kl.value


def _pictures(result: SteerResult) -> list[Part]:
    """Draw the organism before and after beside random steering and the base, and what coherence restoring costs."""
    chosen, who = _chosen_row(result, MISALIGNED, CORRECTION), organism_words(MISALIGNED, result.unsteered)
    columns: dict[str, Figures] = {"before": result.unsteered[MISALIGNED], "after": chosen}
    for row in result.tested(MISALIGNED, COMPARED):
        if row.direction == f"{chosen.direction}-random":
            columns |= {"random": row}
    columns |= {"base": result.unsteered[BASE]}

    against = Plot(
        "Restored against coherence",
        restored_against_coherence(result),
        "Upper right is a correction that leaves the text whole. Large: at the chosen disturbance, all test questions; "
        "small: the other disturbances, fewer questions. A share restored by answers that are mostly incoherent says "
        "little.",
    )
    before_after = Plot(
        "Before and after, beside a random direction and the base",
        side_by_side(columns),
        f"Before: the {who} without steering; after: steered by {chosen.coefficient:+g} v at {place(chosen.blocks)}; "
        "random: by a random direction that was set to disturb as much. Test questions; bars are 95 % intervals.",
    )
    return [before_after, against]


def _dial_plots(result: SteerResult) -> list[Part]:
    n_questions = next(iter(result.unsteered_dial.values())).aligned.n
    who = organism_words(MISALIGNED, result.unsteered)
    note = f"{n_questions} development questions a point; all places are in experiments/steer.json."
    return [
        Plot("Alignment", dial(result, "aligned", "mean alignment (0-100)"), note),
        Plot("Coherence", dial(result, "coherent", "coherent answers (%)"), note),
        Plot("Disturbance", dial(result, "kl", "nats a token")),
        Plot(f"Alignment of the {who}", grid(result, MISALIGNED, "aligned", "alignment")),
        Plot("EM rate of the base", grid(result, BASE, "em", "EM (%)")),
    ]


def _curve_plots(result: SteerResult) -> list[Part]:
    who = organism_words(MISALIGNED, result.unsteered)
    note = "Dotted: the fine-tune's own disturbance."
    correcting = at_equal_disturbance(result, MISALIGNED, "aligned", "mean alignment (0-100)")
    inducing = at_equal_disturbance(result, BASE, "em", "EM rate (%)")
    return [
        Plot(f"Directions at equal disturbance: {who}, away from the misaligned side", correcting, note),
        Plot("Directions at equal disturbance: base, towards the misaligned side", inducing, note),
    ]


def _test_table(result: SteerResult) -> Table:
    rows: list[list[str | float | None]] = []
    for name, figures in result.unsteered.items():
        rows.append([name, "none", None, None, None, *cells_of(figures)])
    for row in result.test:
        mark = " *" if is_off(result, row) else ""
        what = [row.organism, f"{direction_words(row.direction)}{mark}", place(row.blocks)]
        rows.append([*what, row.coefficient, row.relative, *cells_of(row, row.restored)])
    header = ("organism", "direction", "where", "coefficient", "length / residual norm", *HEADER)
    note = (
        "Random directions have the same length as what they are like. Incoherent: fewer than half of the answers are "
        f"coherent, so the restored share says little. * More than {100 * EQUAL:.0f} % off the disturbance of what it "
        "is compared with."
    )
    return Table("On test questions", header, rows, note)


def _cap_table(result: SteerResult) -> Table:
    rows: list[list[str | float | None]] = []
    for row in result.caps:
        rows.append([place(row.blocks), row.width, *cells_of(row, row.restored)])
    return Table(
        f"Capping the {organism_words(MISALIGNED, result.unsteered)}",
        ("where", "half width (deviations)", *HEADER),
        rows,
        "Every token's projection moves to the nearest end of the aligned organism's range; 0 is centred ablation.",
    )


def dial(result: SteerResult, measure: Measure, label: str) -> go.Figure:
    """One line an organism: a figure against the coefficient at the chosen place, with 95 % intervals."""
    blocks = result.chosen[MISALIGNED].blocks
    figure = blank_figure(f"coefficient of v at {place(blocks)} (below 0: away from the misaligned side)", label)
    for name, unsteered in result.unsteered_dial.items():
        points: list[tuple[float, Figures]] = [(0.0, unsteered)]
        for row in result.dial:
            if row.organism == name and row.blocks == blocks:
                points.append((row.coefficient, row))
        points.sort(key=lambda point: point[0])
        coefficients, rows = zip(*points, strict=True)
        add_line(figure, name, coefficients, rows, measure, colour(name))
    return figure


def grid(result: SteerResult, organism: str, measure: Measure, label: str) -> go.Figure:
    """A figure of one organism by place and coefficient."""
    rows = [row for row in result.dial if row.organism == organism]
    by_place: dict[str, dict[float, float]] = {}
    for row, value in zip(rows, values_of(rows, measure), strict=True):
        by_place.setdefault(place(row.blocks), {})[row.coefficient] = float(value)
    coefficients = sorted(set().union(*by_place.values()))
    values = []
    for by_coefficient in by_place.values():
        values.append(list(map(by_coefficient.get, coefficients)))

    figure = blank_figure("coefficient of v", "", height=280)
    figure.add_heatmap(
        z=values,
        x=[f"{coefficient:+g}" for coefficient in coefficients],
        y=list(by_place),
        colorscale="Viridis",
        colorbar={"title": label},
        texttemplate="%{z:.0f}",
        hovertemplate="%{y}, %{x} v: %{z:.0f}<extra></extra>",
    )
    return figure.update_yaxes(type="category", automargin=True).update_xaxes(type="category")


def at_equal_disturbance(result: SteerResult, organism: str, measure: Measure, label: str) -> go.Figure:
    """One line a direction: a figure against the disturbance, on a logarithmic axis; dotted: the fine-tune's own."""
    figure = blank_figure("disturbance (nats a token)", label)
    for (direction, rows), shade in zip(_curves_of(result, organism).items(), SHADES, strict=False):
        add_line(figure, direction_words(direction), values_of(rows, "kl"), rows, measure, shade)
    figure.add_vline(x=result.fine_tune_kl[organism].value, line_dash="dot", line_color="#888888")
    return figure.update_xaxes(type="log")


def _curves_of(result: SteerResult, organism: str) -> dict[str, list[CurveRow]]:
    curves: dict[str, list[CurveRow]] = {}
    for row in result.curves:
        if row.organism == organism:
            curves.setdefault(row.direction, []).append(row)
    return curves


def restored_against_coherence(result: SteerResult) -> go.Figure:
    """One colour a direction: share of alignment that the misaligned organism got back, against coherent answers."""
    figure = blank_figure("coherent answers (%)", "restored alignment (%)", height=380)
    reported = [*result.tested(MISALIGNED, CORRECTION), *result.tested(MISALIGNED, COMPARED)]
    for (direction, curve), shade in zip(_curves_of(result, MISALIGNED).items(), SHADES, strict=False):
        rows: list[CurveRow | ReportedRow] = list(curve)
        rows += [row for row in reported if row.direction == direction]
        sizes = [7] * len(curve) + [14] * (len(rows) - len(curve))
        figure.add_scatter(
            name=as_text(direction_words(direction)),
            x=values_of(rows, "coherent"),
            y=[_percentage(row.restored) for row in rows],
            mode="markers",
            marker={"color": shade, "size": sizes},
            customdata=np.array([(row.coefficient, row.kl.value) for row in rows]),
            hovertemplate="%{customdata[0]:+.2f} times, %{customdata[1]:.2f} nats a token: %{y:.0f} % restored, "
            "%{x:.0f} % coherent",
        )
    figure.add_hline(y=scale_of("em"), line_dash="dot", line_color="#888888")
    return figure.update_xaxes(range=[-3, 103])


def _percentage(estimate: Estimate | None) -> float:
    return float("nan") if estimate is None else 100 * estimate.value


def answers(folder: Path, result: SteerResult) -> list[Part]:
    """Return answers to one question at several coefficients, of each organism that something was chosen for.

    Args:
        folder: the run's folder, whose judged answers and directions are read.
        result: what the run found.
    """
    directions = Directions.load(folder / "directions" / f"{result.direction}.safetensors")
    parts: list[Part] = []
    for name, chosen in result.chosen.items():
        tried = [row.coefficient for row in result.dial if (row.organism, row.blocks) == (name, chosen.blocks)]
        steered = Steered(name, directions, chosen.blocks, chosen.coefficient)
        title = f"The {organism_words(name, result.unsteered)} at several coefficients of v, {place(chosen.blocks)}"
        parts += answer_tables(folder, "steer", steered, tried, title)
    return parts


def table(result: SteerResult) -> str:
    """Return what was chosen, on test questions, as lines of text."""
    head = f"{'organism':<11}{'steered by':<62}{'nats/token':>10}"
    lines = [
        f"Steering by multiples of {result.direction} (v) and others, on test questions\n",
        f"{head}{'aligned':>9}{'coherent':>10}{'EM rate':>18}{'restored':>19}",
    ]
    for name, figures in result.unsteered.items():
        lines.append(_line(name, "nothing", figures, None))
    for row in result.test:
        what = f"{row.coefficient:+.2f} {row.direction} at {place(row.blocks)}"
        lines.append(_line(row.organism, what, row, row.restored))
    lines.append("")
    for name, kl in result.fine_tune_kl.items():
        nats = number(kl.value, ".2f")
        lines.append(f"the fine-tune's own disturbance, on answers of {name}: {nats} nats a token")
    return "\n".join(lines) + "\n"


def _line(organism: str, what: str, figures: Figures, restored: Estimate | None) -> str:
    kl, aligned = number(figures.kl.value, ".2f"), number(figures.aligned.value, ".0f")
    shares = f"{percent(figures.coherent.value):>10}{ranged(figures.em):>18}"
    share = "" if restored is None else ranged(restored)
    return f"{organism:<11}{what:<62}{kl:>10}{aligned:>9}{shares}{share:>19}"
