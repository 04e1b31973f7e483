"""The sweep on a page: where misalignment can be read, what the controls say, and the table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from emscope.experiments.sweep.result import (
    BEST,
    EVERY,
    RANDOM_BEST,
    RANDOM_EVERY,
    RESPONSE,
    BestBlock,
    Interval,
    IntervalByBlock,
    SweepAblation,
    SweepResult,
)
from emscope.report.figures import blank_figure, plain
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import above, bounded, number, percent, ranged, restored_words

ACCURATE = 0.95
"""A construction that is right on this share of held-out questions is counted as one that separates."""
NULL_MARGIN = 0.03
"""How far from 50 % the accuracy with exchanged labels may lie before it is pointed out."""
TOLD_APART = {
    "control": "The misaligned organism is told from its control",
    "model": "The misaligned organism is told from its base",
    RESPONSE: "Misaligned answers are told from aligned ones of the same organism",
}
COLOURS = ("#e45756", "#4c78a8", "#54a24b", "#b279a2")
RING = "The ring marks the block chosen on training questions."


def section(result: SweepResult) -> Section:
    """Return the report's section on a sweep: the finding and its picture first."""
    paragraphs = [_finding(result), _spread_over_constructions(result), _null_sentence(result)]
    paragraphs += _response_sentences(result)
    paragraphs += _ablation_sentences(result)
    paragraphs.append(_method(result))

    parts: list[Plot | Table] = [_picture(result), _best_table(result), *_heatmaps(result)]
    parts += [_prompt_plot(result), _prompt_table(result)]
    if result.ablation is not None:
        parts.append(_ablation_table(result.ablation))
    return Section("sweep", "Sweep: every block, contrast, pooling and method", paragraphs, parts)


def _finding(result: SweepResult) -> str:
    """Say in one sentence what the most separating construction of the main contrast reaches."""
    name, swept = result.strongest(result.main_contrast)
    best = swept.best
    return (
        f"{TOLD_APART[result.main_contrast]} with a balanced accuracy of {ranged(best.accuracy)} on questions left "
        f"out, by {name} at block {best.block}; chance is 50 %."
    )


def _picture(result: SweepResult) -> Plot:
    """Draw the AUROC of the most separating construction of each contrast by block."""
    series = {}
    for contrast in result.contrasts:
        name, swept = result.strongest(contrast)
        series[name] = swept.auroc
    return Plot(
        "Where it can be read",
        bounded_lines(series, result.blocks, "AUROC on questions left out", 0.5),
        "Of each contrast the construction that separates training questions best. Bands are 95 % intervals; the "
        "dotted line is chance.",
    )


def _spread_over_constructions(result: SweepResult) -> str:
    """Say how far constructions and blocks differ in the main contrast."""
    contrast = result.main_contrast
    name, swept = result.strongest(contrast)
    constructions = result.of_contrast(contrast)
    weakest, least_accuracy, n_accurate = name, math.inf, 0
    for other, construction in constructions.items():
        accuracy = _or_zero(construction.best.accuracy.value)
        n_accurate += accuracy >= ACCURATE
        if accuracy < least_accuracy:
            weakest, least_accuracy = other, accuracy
    least, most = _range_of(swept.accuracy.value)
    return (
        f"In the {contrast} contrast the AUROC of {name} at block {swept.best.block} is "
        f"{number(swept.best.auroc.value, '.3f')}; over all blocks its accuracy is {_number(least)} – "
        f"{_number(most)} %. At their best blocks {n_accurate} of the contrast's {len(constructions)} constructions "
        f"reach {100 * ACCURATE:.0f} % accuracy; the weakest is {weakest}: "
        f"{ranged(constructions[weakest].best.accuracy)}."
    )


def _or_zero(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _range_of(values: Sequence[float]) -> tuple[float, float]:
    """Return the smallest and the largest figure, NaN without any."""
    known = list(filter(math.isfinite, values))
    return (min(known), max(known)) if known else (math.nan, math.nan)


def _number(value: float) -> str:
    return number(100 * value, ".0f")


def _null_sentence(result: SweepResult) -> str:
    nulls: dict[str, float] = {}
    for name, swept in result.constructions.items():
        if math.isfinite(swept.best.null_accuracy):
            nulls[name] = swept.best.null_accuracy
    if not nulls:
        return "No labels were exchanged, so nothing says what chance alone would reach."

    off = np.abs(np.array(list(nulls.values())) - 0.5)
    n_off, furthest = int((off > NULL_MARGIN).sum()), list(nulls)[int(off.argmax())]
    verdict = "All lie within three points of 50 %"
    if n_off:
        verdict = f"{n_off} of {len(nulls)} lie further than three points from 50 %, furthest {furthest}"
    return (
        "With labels exchanged within questions, in training and in test, the same fits have a mean accuracy of "
        f"{_number(min(nulls.values()))} – {_number(max(nulls.values()))} % at the best blocks. {verdict}."
    )


def _response_sentences(result: SweepResult) -> list[str]:
    if not result.of_contrast(RESPONSE):
        for name, reason in result.skipped.items():
            if name.startswith(RESPONSE):
                return [f"The response contrast was left out. {reason}"]
        return []

    name, swept = result.strongest(RESPONSE)
    auroc, train, test = swept.best.auroc, swept.n.train, swept.n.test
    certain = "which excludes chance" if above(auroc.low, 0.5) else "which does not exclude chance"
    _, prompt_only = _range_of(result.prompt_only[RESPONSE].auroc.value)
    return [
        f"Within the misaligned organism, its misaligned against its aligned answers: {name} at block "
        f"{swept.best.block} has AUROC {bounded(auroc)} on questions left out ({test.positive} and {test.negative} "
        f"answers), {certain}. It comes from {train.positive} and {train.negative} answers, and directions from two "
        f"halves of their questions have a cosine of {number(swept.best.split_half_cosine, '.2f')}. A probe that reads "
        f"only the base model's prompt reaches at most {number(prompt_only, '.2f')} at any block. The offline judge, "
        "where it tells the two kinds apart, itself reads mean answer activations, of the base model, so part of what "
        "is measured is then the judge."
    ]


def _ablation_sentences(result: SweepResult) -> list[str]:
    ablation = result.ablation
    if ablation is None:
        return []

    def effect(name: str) -> str:
        trial = ablation.trials[name]
        return f"{restored_words(trial.restored, trial.coherent)} at {number(trial.kl.value, '.2f')} nats a token"

    return [
        f"Subtracting {ablation.strength:g} × {ablation.construction} at block {ablation.block} restores "
        f"{effect(BEST)} of disturbance; subtracted at all blocks, with the strength that "
        f"disturbs as much on development questions, {effect(EVERY)}. Random directions set to the "
        f"same disturbance: {effect(RANDOM_BEST)} there, {effect(RANDOM_EVERY)} everywhere. "
        f"Shares and disturbances are of {ablation.n_questions} test questions."
    ]


def _method(result: SweepResult) -> str:
    return (
        f"Directions, penalties and best blocks come from {result.n_train_questions} training questions, by "
        f"cross-fitting; every figure is of {result.n_test_questions} others. Intervals resample questions. The best "
        "block has the largest cross-fitted d′. Stability is the cosine of directions from two halves of the questions."
    )


def _best_table(result: SweepResult) -> Table:
    rows: list[list[str | float | None]] = []
    for name, swept in result.constructions.items():
        best = swept.best
        rows.append(
            [
                name,
                best.block,
                bounded(best.auroc, ".3f"),
                ranged(best.accuracy),
                best.d_prime.value,
                best.split_half_cosine,
                percent(best.null_accuracy),
                best.p_value,
                f"{swept.n.test.positive} / {swept.n.test.negative}",
            ]
        )
    header = ["construction", "best block", "AUROC", "accuracy", "d′", "stability", "null", "p", "test examples"]
    caption = (
        "Construction: contrast, pooling, method. Accuracy is balanced, with the threshold of the training questions. "
        "Null: mean accuracy after exchanging labels within questions; p: share of relabellings at least as accurate, "
        "which cannot be less than one over their number plus one."
    )
    return Table("At the best block of each construction", header, rows, caption)


def _heatmaps(result: SweepResult) -> list[Plot]:
    chosen: dict[str, int] = {}
    auroc: dict[str, Sequence[float]] = {}
    accuracy: dict[str, Sequence[float]] = {}
    stability: dict[str, Sequence[float]] = {}
    null: dict[str, Sequence[float]] = {}
    for name, swept in result.constructions.items():
        chosen[name] = swept.best.block
        auroc[name], accuracy[name] = swept.auroc.value, swept.accuracy.value
        stability[name], null[name] = swept.split_half_cosine, swept.null_accuracy

    blocks = result.blocks
    return [
        Plot("AUROC on questions left out", heatmap(auroc, blocks, "AUROC", (0, 1), chosen), RING),
        Plot("Balanced accuracy on questions left out", heatmap(accuracy, blocks, "accuracy", (0, 1), chosen), RING),
        Plot("Split-half stability", heatmap(stability, blocks, "cosine", (-1, 1), chosen), RING),
        Plot("Accuracy of the permutation null", heatmap(null, blocks, "accuracy", (0, 1), chosen), "Grey is chance."),
    ]


def _prompt_plot(result: SweepResult) -> Plot:
    series: dict[str, IntervalByBlock] = {}
    for contrast, prompt_only in result.prompt_only.items():
        series[f"prompt only, {contrast}"] = prompt_only.auroc
    return Plot(
        "What a probe of the base model's prompt reaches",
        bounded_lines(series, result.blocks, "AUROC, held-out", 0.5),
        "It knows the question and no answer. Where two organisms answer the same questions it can know nothing.",
    )


def _prompt_table(result: SweepResult) -> Table:
    rows: list[list[str | float | None]] = []
    for contrast, prompt_only in result.prompt_only.items():
        _, grouped = _range_of(prompt_only.auroc.value)
        _, ungrouped = _range_of(prompt_only.ungrouped_auroc or [])
        rows.append([contrast, grouped, ungrouped])
    return Table(
        "Prompt-only probe at its best block",
        ["contrast", "AUROC, questions left out", "AUROC, answers split without regard to questions"],
        rows,
        "The last column is the leak that grouping by question prevents; it needs one organism that gave all answers.",
    )


def _ablation_table(ablation: SweepAblation) -> Table:
    rows: list[list[str | float | None]] = []
    for name, scores in (("misaligned", ablation.misaligned), ("base", ablation.base)):
        rows.append([f"{name}, untouched", None, None, scores.aligned, scores.coherent, None])
    for name, trial in ablation.trials.items():
        restored = restored_words(trial.restored, trial.coherent)
        rows.append([name, trial.strength, bounded(trial.kl), trial.aligned, trial.coherent, restored])
    return Table(
        "Ablating the misaligned organism",
        ["what is done", "strength", "nats a token", "alignment", "coherence", "restored"],
        rows,
        f"{ablation.construction} on {ablation.n_questions} test questions. All but the centred one were set to "
        f"{number(ablation.nats, '.2f')} nats a token on development questions; random: random vectors as long as "
        "those of the direction, times the strength.",
    )


def heatmap(
    rows: Mapping[str, Sequence[float]],
    blocks: Sequence[int],
    label: str,
    bounds: tuple[float, float],
    chosen: Mapping[str, int],
) -> go.Figure:
    """Draw one row a construction and one column a block; the chosen block of each row has a ring.

    `bounds` are the values of the two ends of the colour scale: grey in the middle, red high, blue low.
    """
    labels = list(map(plain, rows))
    figure = blank_figure("block", "", height=120 + 26 * len(labels))
    figure.add_heatmap(
        z=list(rows.values()),
        x=list(blocks),
        y=labels,
        zmin=bounds[0],
        zmax=bounds[1],
        colorscale=[[0, "#4c78a8"], [0.5, "#dddddd"], [1, "#e45756"]],
        colorbar={"title": {"text": label, "side": "right"}, "thickness": 12},
        hovertemplate="%{y}<br>block %{x}: %{z:.3f}<extra></extra>",
    )
    figure.add_scatter(
        x=list(map(chosen.get, rows)),
        y=labels,
        mode="markers",
        showlegend=False,
        hoverinfo="skip",
        marker={"symbol": "circle-open", "size": 11, "color": "#000000", "line": {"width": 2}},
    )
    figure.update_layout(margin={"l": 10, "r": 16, "t": 24, "b": 48})
    figure.update_xaxes(dtick=_step(blocks))
    return figure.update_yaxes(autorange="reversed", automargin=True)


def bounded_lines(series: Mapping[str, IntervalByBlock], blocks: Sequence[int], label: str, chance: float) -> go.Figure:
    """Draw one line a series against the block, with its 95 % interval as a band and a dotted line at chance."""
    figure = blank_figure("block", label)
    for (name, by_block), shade in zip(series.items(), COLOURS, strict=False):
        figure.add_scatter(
            x=[*blocks, *reversed(blocks)],
            y=[*by_block.high, *reversed(by_block.low)],
            fill="toself",
            fillcolor=shade,
            opacity=0.15,
            line={"width": 0},
            showlegend=False,
            hoverinfo="skip",
        )
        figure.add_scatter(
            name=plain(name),
            x=list(blocks),
            y=by_block.value,
            mode="lines",
            line={"color": shade},
            hovertemplate="block %{x}: %{y:.3f}",
        )
    figure.add_hline(y=chance, line_dash="dot", line_color="#888888")
    return figure.update_xaxes(dtick=_step(blocks))


def _step(blocks: Sequence[int]) -> int:
    """Return the distance of ticks: whole blocks, about ten of them."""
    return max(1, round(len(blocks) / 10))


def table(result: SweepResult) -> str:
    """Return a line a construction at its best block, with held-out figures."""
    width = max(map(len, result.constructions))
    lines = [f"{'':<{width}}  block  AUROC (95 %)             accuracy (95 %)          stability  null"]
    for name, swept in result.constructions.items():
        lines.append(f"{name:<{width}}  {_line(swept.best)}")
    for name, reason in result.skipped.items():
        lines.append(f"left out: {name}: {reason}")
    return "\n".join(lines) + "\n"


def _line(best: BestBlock) -> str:
    auroc, accuracy = _cell(best.auroc, 1, ".3f"), _cell(best.accuracy, 100, ".0f")
    stability = number(best.split_half_cosine, ".2f")
    return f"{best.block:>5}  {auroc:<24} {accuracy:<24} {stability:>9}  {percent(best.null_accuracy)}"


def _cell(interval: Interval, scale: float, form: str) -> str:
    """Return a figure with its interval for the terminal; a dash for each of them that is missing."""
    ends = []
    for end in (interval.value, interval.low, interval.high):
        ends.append("  –" if math.isnan(end) else format(scale * end, form))
    return f"{ends[0]} ({ends[1]} – {ends[2]})"
