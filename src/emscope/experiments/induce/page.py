"""A trained vector on a page: the finding, the base with and without it side by side, and the terminal's table."""

from __future__ import annotations

from collections.abc import Sequence
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
    organism_words,
    restored_clause,
    side_by_side,
)
from emscope.experiments.induce.result import CAREFUL, CARELESS, RANDOM, WITH, WITHOUT, InduceResult
from emscope.pipeline.lab import BASE, MISALIGNED
from emscope.report.figures import blank_figure
from emscope.report.section import Part, Plot, Section, Table
from emscope.report.wording import number, percent, ranged
from emscope.residual.directions import Directions
from emscope.statistics import Estimate

SHADES = {CARELESS: "#e45756", CAREFUL: "#54a24b", RANDOM: "#9d9d9d"}
DASHES = ("solid", "dot", "dash")


def section(result: InduceResult) -> Section:
    """Return the report's section on a trained vector: the finding and its picture first."""
    paragraphs = [
        _finding(result),
        _verdict(result),
        _elsewhere(result),
        "How it is done: a vector is trained by gradient on the same rows as an organism, with every weight of the "
        f"base frozen, and added after block {result.block} at every position. The coefficient was chosen on "
        "development questions: the highest EM rate among those that leave four answers in five coherent. Beside it "
        "stand a vector trained on the careful answers to the same prompts, a random one of its length, and the "
        "difference in means of the run's organisms at the same disturbance. Intervals resample questions.",
    ]
    parts = [_picture(result), _set_table(result), _test_table(result), *_plots(result), _training_table(result)]
    return Section("induce", "One trained vector", paragraphs, parts)


def _finding(result: InduceResult) -> str:
    """Say in one sentence what the vector does to the base."""
    row, base = result.induction, result.unsteered[BASE]
    return (
        f"One vector trained on careless rows, added at block {result.block} with coefficient {row.coefficient:g}, "
        f"takes the base's EM rate from {percent(base.em.value)} to {ranged(row.em)}; {percent(row.coherent.value)} of "
        f"its answers are coherent (without the vector: {percent(base.coherent.value)})."
    )


def _verdict(result: InduceResult) -> str:
    """Say whether that is a clear effect, and what the controls do."""
    least = result.bars.em_ratio_at_least or 0.0
    if least >= RATIO_BAR:
        verdict = f"One vector is enough: at least {RATIO_BAR:g} times the base's own EM rate on all questions"
    elif least > 1:
        verdict = f"One vector gives more EM than the base, though not surely {RATIO_BAR:g} times as much"
    else:
        verdict = "No clear effect: the EM rate cannot be told from the base's own on all questions"
    whole = "at least" if result.bars.coherent >= COHERENT_BAR else "fewer than"
    controls = []
    for row in result.test[1:]:
        if row.organism == BASE:
            controls.append(f"{_words(row.direction)} {ranged(row.em)}")
    return f"{verdict}; {whole} four answers in five are coherent. EM rate with its controls: {', '.join(controls)}."


def _words(direction: str) -> str:
    """Return a vector or a direction of the run in words."""
    return f"vector {direction}" if direction in (CARELESS, CAREFUL) else direction_words(direction)


def _elsewhere(result: InduceResult) -> str:
    """Say how the vector lies to other directions, where it leads, and what taking it out does."""
    cosines = [f"{_words(name)} {cosine:+.2f}" for name, cosine in result.cosines.items()]
    ends = []
    for name, by_block in result.downstream.cosines[CARELESS].items():
        ends.append(f"{direction_words(name)} {by_block[-1]:+.2f}")
    sentences = [
        f"Cosine of the vector with other directions at its block: {', '.join(cosines)}.",
        f"What it causes at the last block has these cosines with the run's directions there: {', '.join(ends)}.",
    ]
    taken = result.tested(MISALIGNED, CARELESS)
    if taken is not None:
        who, before = organism_words(MISALIGNED, result.unsteered), result.unsteered[MISALIGNED]
        restored = restored_clause(taken.restored, taken.coherent, before.coherent)
        sentences.append(f"With the vector taken out of the {who}, {restored}.")
    return " ".join(sentences)


def _picture(result: InduceResult) -> Plot:
    """Draw the base without and with the vector, beside its controls and the fine-tune itself."""
    short = {CARELESS: "+ vector", CAREFUL: "+ careful", RANDOM: "+ random"}
    columns: dict[str, Figures] = {"base": result.unsteered[BASE]}
    for row in result.test:
        if row.organism == BASE:
            columns[short.get(row.direction, "+ v")] = row
    columns |= {"fine-tune": result.unsteered[MISALIGNED]}
    return Plot(
        "The base without and with the vector, beside its controls and the fine-tune",
        side_by_side(columns),
        "The base alone; with the vector; with one trained on careful answers and a random one of its length, at the "
        "same coefficient; with the difference in means v of the run's organisms, at the same disturbance; and the "
        f"{organism_words(MISALIGNED, result.unsteered)}. Test questions; bars are 95 % intervals.",
    )


def _plots(result: InduceResult) -> list[Part]:
    note = f"{result.unsteered_dial.aligned.n} development questions a point."
    return [
        Plot("EM rate of the base", dial(result, "em", "EM (%)"), note),
        Plot("Coherence of the base", dial(result, "coherent", "coherent answers (%)"), note),
        Plot(
            "Where the vector leads",
            downstream(result),
            "The shift of the base's mean answer activation that an added vector causes, against the difference of the "
            "run's organisms at the same block.",
        ),
    ]


def _test_table(result: InduceResult) -> Table:
    rows: list[list[str | float | None]] = []
    for name, figures in result.unsteered.items():
        rows.append([name, "nothing", None, *cells_of(figures)])
    for row in result.test:
        rows.append([row.organism, _words(row.direction), row.coefficient, *cells_of(row, row.restored)])
    note = "Incoherent: fewer than half of the answers are coherent, so the restored share says little."
    return Table("On test questions", ("organism", "plus", "coefficient", *HEADER), rows, note)


def _set_table(result: InduceResult) -> Table:
    rows: list[list[str | float | None]] = []
    for name, figures in result.by_set.items():
        without, steered = figures[WITHOUT], figures[WITH]
        rows.append([name, ranged(without.em), ranged(steered.em), ranged(steered.coherent)])
    header = ("question set", "EM rate, base", "EM rate, base + vector", "coherent, base + vector")
    return Table("By question set", header, rows, "The rows are narrow; what the vector does elsewhere is the point.")


def _training_table(result: InduceResult) -> Table:
    rows: list[list[str | float | None]] = []
    for name, training in result.training.items():
        eighth = max(1, len(training.losses) // 8)
        first, last = _mean(training.losses[:eighth]), _mean(training.losses[-eighth:])
        share = percent(training.norm_share)
        rows.append([name, result.data[name], training.rows, first, last, share, training.seconds])
    header = ("vector", "rows", "number", "loss, first steps", "loss, last steps", "length / activation", "seconds")
    return Table("Training", header, rows, "Loss in nats a token, over the first and the last eighth of the steps.")


def _mean(losses: Sequence[float]) -> float:
    return float(np.mean(losses)) if losses else float("nan")


def dial(result: InduceResult, measure: Measure, label: str) -> go.Figure:
    """A share of the base's answers, in percent, against the coefficient of each trained vector."""
    figure = blank_figure("coefficient of the vector", label)
    for name in dict.fromkeys(row.direction for row in result.dial):
        rows: list[Figures] = [result.unsteered_dial]
        coefficients = [0.0]
        for row in result.dial:
            if row.direction == name:
                rows.append(row)
                coefficients.append(row.coefficient)
        add_line(figure, name, coefficients, rows, measure, SHADES.get(name, "#888888"))
    return figure


def downstream(result: InduceResult) -> go.Figure:
    """Cosine of the shift that each vector causes with the run's directions, block by block."""
    figure = blank_figure("block", "cosine with the run's direction")
    for name, by_direction in result.downstream.cosines.items():
        for dash, (direction, cosines) in zip(DASHES, by_direction.items(), strict=False):
            figure.add_scatter(
                name=f"{name}: {direction_words(direction)}",
                x=list(result.downstream.blocks),
                y=cosines,
                line={"color": SHADES.get(name), "dash": dash},
            )
    return figure.update_yaxes(range=[-1, 1])


def answers(folder: Path, result: InduceResult) -> list[Part]:
    """Return the base's answers to one question at several coefficients of the vector.

    Args:
        folder: the run's folder, whose judged answers and trained vector are read.
        result: what the run found.
    """
    vector = Directions.load(folder / "experiments" / "induce" / "careless.safetensors")
    tried = [row.coefficient for row in result.dial if row.direction == CARELESS]
    steered = Steered(BASE, vector, (result.block,), result.coefficient)
    return list(answer_tables(folder, "induce", steered, tried, "The base at several coefficients of the vector"))


def table(result: InduceResult) -> str:
    """Return what the vector does, on test questions, as lines of text."""
    lines = [
        f"One vector at block {result.block}, on test questions\n",
        f"{'organism':<12}{'plus':<46}{'nats/token':>10}{'coherent':>10}{'EM rate':>18}{'restored':>19}",
    ]
    for name, figures in result.unsteered.items():
        lines.append(_line(name, "nothing", figures, None))
    for row in result.test:
        lines.append(_line(row.organism, f"{row.coefficient:+.2f} {row.direction}", row, row.restored))
    lines.append("")
    for name, by_vector in result.by_set.items():
        lines.append(f"{name:<20}EM rate {ranged(by_vector[WITHOUT].em):>18} -> {ranged(by_vector[WITH].em):>18}")
    return "\n".join(lines) + "\n"


def _line(organism: str, what: str, figures: Figures, restored: Estimate | None) -> str:
    kl, coherent = number(figures.kl.value, ".2f"), percent(figures.coherent.value)
    share = "" if restored is None else ranged(restored)
    return f"{organism:<12}{what:<46}{kl:>10}{coherent:>10}{ranged(figures.em):>18}{share:>19}"
