"""Transfer on a page: one direction or many, whom it serves, and the table for the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
import plotly.graph_objects as go

from emscope.experiments.transfer.result import (
    ANSWERS,
    PROMPTS,
    RANDOM,
    Corrections,
    CorrectionSummary,
    DetectionCell,
    DetectionSummary,
    Geometry,
    TransferResult,
)
from emscope.report.figures import blank_figure, by_block, plain
from emscope.report.section import Plot, Section, Table
from emscope.report.wording import Interval, above, number, percent, ranged

WORDS = {
    "own": "the organism it was made from",
    "same domain": "same domain, another seed",
    "other domain": "another domain",
    "unknown": "the run's own data, domain not said",
    "left out": "shared direction, domain left out",
    "left out, component": "the same, first principal component",
    RANDOM: "random direction of the same norm",
}
SHORT = {
    "own": "own organism",
    "same domain": "another seed",
    "other domain": "another domain",
    "unknown": "domain not said",
    "left out": "shared, left out",
    "left out, component": "its component",
    RANDOM: "random",
}
"""The same for a plot, that a phone has room for."""
HEADLINES = {
    "other domain": "another domain",
    "same domain": "another seed of its domain",
    "unknown": "data that may or may not be of its domain",
}
"""The relations that the finding can be about, the first that there is, and how they are called in it."""
LITTLE = 5.0
"""Points of alignment: below it a share of what was lost means nothing."""
MOST = 0.6
"""A restored share from here on is called most of the alignment."""
DETECTS = 0.9
"""An AUROC that says an organism is detected."""
NEARLY_ONE = 0.8
"""A cosine that the papers' fine-tunes exceed in most blocks (Soligo et al. 2506.11618)."""
BROKEN = 20.0
"""Points of mean coherence: where more are lost, the answers behind a restored share are broken."""
HALF = 0.5
"""Share of coherent answers below which an organism is said to be incoherent."""


@dataclass(frozen=True)
class Estimated:
    """A figure of a matrix with the ends of its interval."""

    value: float
    low: float
    high: float


def section(result: TransferResult) -> Section:
    """Return the report's section on transfer: the finding and its picture first."""
    paragraphs = [_finding(result), _details(result), *_incoherent(result), *_unsaid(result), _method(result)]
    return Section(
        "transfer",
        "Transfer between domains",
        paragraphs,
        [
            _picture(result),
            _relations(result),
            *_detection(result),
            _correction(result),
            *_geometry(result),
            _organisms(result),
        ],
    )


def _headline(result: TransferResult) -> str:
    """Return the relation that the finding is about."""
    for kind in HEADLINES:
        if kind in result.detection.summary:
            return kind
    raise ValueError("no direction was tried on another organism")


def _finding(result: TransferResult) -> str:
    """Say in one sentence whether one organism's direction detects and corrects others."""
    kind = _headline(result)
    detected = result.detection.summary[kind]
    sees = "detects" if detected.least >= DETECTS else "does not always detect"
    return (
        f"A direction made on one organism {sees} organisms of {HEADLINES[kind]} (AUROC {detected.mean:.3f} on average "
        f"over {detected.n} cases, {detected.least:.3f} in the worst), and {_corrects(result.ablation, kind)}."
    )


def _corrects(corrections: Corrections, kind: str) -> str:
    """Say what the direction restores where it is subtracted, as the end of a sentence."""
    gap = _mean_gap(corrections)
    if math.isnan(gap):
        return "what it restores cannot be said, for some organism gave no scored answer"
    if gap < LITTLE:
        return "there is nothing that it could restore, for the organisms are about as well aligned as the base"
    summary, random = corrections.summary[kind], corrections.summary[RANDOM]
    return f"subtracted there it {_verdict(summary.restored, random.restored)}: {_restored(summary)}"


def _mean_gap(corrections: Corrections) -> float:
    """Return the mean points of alignment between base and organisms; NaN where one has no scored answer."""
    gaps = 0.0
    for uncorrected in corrections.without.values():
        gaps += uncorrected.gap
    return gaps / len(corrections.without)


def _verdict(restored: Interval, random: Interval) -> str:
    chance = 0.0 if random.value is None or math.isnan(random.value) else max(0.0, random.value)
    if restored.value is None or not above(restored.low, chance):
        return "restores no more than chance can explain"
    return "restores most of the alignment" if restored.value >= MOST else "restores part of the alignment"


def _restored(summary: CorrectionSummary) -> str:
    """Return a restored share, and beside it that coherence was lost for it."""
    if summary.coherence_change > -BROKEN or math.isnan(summary.coherence_change):
        return ranged(summary.restored)
    return f"{ranged(summary.restored)}, of answers that lost {-summary.coherence_change:.0f} points of coherence"


def _details(result: TransferResult) -> str:
    kind = _headline(result)
    detected, geometry = result.detection.summary[kind], result.geometry[ANSWERS]
    cosines = geometry.of_kin(kind)
    text = (
        f"In {detected.above_random} of the {detected.n} cases d′ is above that of 95 % of random directions at the "
        f"same block on the same organism; it is {detected.d_prime:.1f} on average. "
    )
    if _mean_gap(result.ablation) >= LITTLE:
        summary, random = result.ablation.summary[kind], result.ablation.summary[RANDOM]
        text += (
            f"Correction restores {percent(summary.least)} in the worst case and changes coherence by "
            f"{number(summary.coherence_change, '+.1f')} points on average; a random direction of the same norm "
            f"changes it by {number(random.coherence_change, '+.1f')} and restores {_restored(random)}. EM responses "
            f"go from {ranged(summary.em_before)} to {ranged(summary.em_after)}. "
        )
    mean = number(float(np.mean(cosines)) if cosines else None, ".2f")
    return f"{text}The correcting directions of such organisms have a cosine of {mean} on average over blocks."


def _incoherent(result: TransferResult) -> list[str]:
    """Say which organisms answer incoherently by themselves: shares of their alignment rest on that."""
    names = []
    for pair in result.pairs:
        if result.behaviour[pair.careless].coherent_share.value < HALF:
            names.append(pair.name)
    if not names:
        return []
    return [
        f"Fewer than half of the answers of {', '.join(names)} are coherent before any correction, so restored shares "
        "on them rest on incoherent answers."
    ]


def _unsaid(result: TransferResult) -> list[str]:
    unknown = [pair.name for pair in result.pairs if not pair.domain]
    if not unknown:
        return []
    return [
        f"What the data of {', '.join(unknown)} are about was not said (setting own_domain), so it counts neither as "
        "the same nor as another domain."
    ]


def _method(result: TransferResult) -> str:
    corrections = result.ablation
    return (
        "Each organism has a control trained on careful answers to the same prompts. Directions are mean differences "
        "between the two on training questions; block and threshold of detection come from the direction's own "
        "organism; everything here is on test questions. Ablations subtract "
        f"{corrections.strength:g} × the direction at block {corrections.block}, on {corrections.n_questions} "
        "questions. Intervals (95 %) draw questions, not organisms: they say nothing about domains that were not tried."
    )


def _picture(result: TransferResult) -> Plot:
    """Draw what is restored by what the direction was made from; AUROCs where there is nothing to restore."""
    if _mean_gap(result.ablation) >= LITTLE:
        bars = {}
        for kind, summary in result.ablation.summary.items():
            bars[SHORT[kind]] = Estimated(
                100 * summary.restored.value, 100 * summary.restored.low, 100 * summary.restored.high
            )
        title, label, chance = "What a direction restores", "alignment restored (%)", 0.0
        caption = "Share of the alignment lost by the fine-tune, 95 % intervals, by what the direction was made from."
        caption = " ".join([caption, *_incoherent(result)])
    else:
        bars = {}
        for kind, detected in result.detection.summary.items():
            bars[SHORT[kind]] = Estimated(detected.mean, detected.least, detected.mean)
        title, label, chance = "What a direction detects", "AUROC", 0.5
        caption = "Mean AUROC by what the direction was made from; the line goes down to the worst case. 0.5 is chance."
    return Plot(title, bar_chart(bars, label, chance), caption)


def _relations(result: TransferResult) -> Table:
    rows: list[list[str | float | None]] = []
    for kind, words in WORDS.items():
        detected, corrected = result.detection.summary.get(kind), result.ablation.summary.get(kind)
        if detected or corrected:
            rows.append([words, *_detected_cells(detected), *_corrected_cells(corrected)])
    header = ["direction on", "AUROC, mean", "AUROC, least", "d′", "above random", "accuracy", "control vs base"]
    header += ["restored", "restored, least", "EM rate after", "coherence change"]
    caption = (
        "Above random: cases in which d′ is above that of 95 % of random directions at the same block on the same "
        "organism. Accuracy is balanced, with the threshold of the direction's own training questions. Control vs base "
        "is the mean AUROC of controls against the base: above 0.5 a direction takes any fine-tune for a misaligned "
        "one."
    )
    return Table("By what the direction was made from", header, rows, " ".join([caption, *_incoherent(result)]))


def _detected_cells(summary: DetectionSummary | None) -> list[str | float | None]:
    if summary is None:
        return [None] * 6
    above_random = f"{summary.above_random} of {summary.n}"
    figures = (summary.mean, summary.least, summary.d_prime)
    return [*figures, above_random, summary.accuracy, summary.control_vs_base]


def _corrected_cells(summary: CorrectionSummary | None) -> list[str | float | None]:
    if summary is None:
        return [None] * 4
    return [_restored(summary), percent(summary.least), ranged(summary.em_after), summary.coherence_change]


def _detection(result: TransferResult) -> list[Plot]:
    aurocs: dict[str, dict[str, Estimated]] = {}
    for name, row in result.detection.cells.items():
        aurocs[name] = {}
        for pair, cell in row.items():
            aurocs[name][pair] = Estimated(cell.auroc, cell.low, cell.high)

    series: dict[str, list[float] | None] = {}
    for kind in ("same domain", "other domain", "unknown", "left out"):
        series[WORDS[kind]] = _mean_auroc(result.detection.cells, kind)
    randoms = result.detection.random.values()
    series |= {"random, 95th percentile": _mean(list(map(attrgetter("auroc_p95_by_block"), randoms)))}

    axes = ("direction", "misaligned organism against its control")
    return [
        Plot(
            "Detection",
            matrix(aurocs, result.names, axes),
            "AUROC on test questions, each direction at the block its own organism chose.",
        ),
        Plot(
            "Detection by block",
            curves(series, "AUROC", 0.5),
            "A direction says something where it beats random ones.",
        ),
    ]


def _mean_auroc(cells: Mapping[str, Mapping[str, DetectionCell]], kind: str) -> list[float] | None:
    """Return the mean AUROC by block over the cases of a relation, principal components aside."""
    rows = []
    for name, row in cells.items():
        if not name.endswith("component"):
            for cell in row.values():
                if cell.relation == kind:
                    rows.append(cell.auroc_by_block)
    return _mean(rows)


def _correction(result: TransferResult) -> Plot:
    restored: dict[str, dict[str, Interval]] = {}
    for direction, row in result.ablation.cells.items():
        restored[direction] = {pair: cell.restored for pair, cell in row.items()}
    axes = ("direction subtracted", "misaligned organism")
    figure = matrix(restored, result.names, axes, scale=100, limits=(-100, 100))
    caption = "Share of alignment restored, percent; 100 is the base's alignment."
    return Plot("Correction", figure, " ".join([caption, *_incoherent(result)]))


def _geometry(result: TransferResult) -> list[Plot | Table]:
    answers, prompts = result.geometry[ANSWERS], result.geometry[PROMPTS]
    series = {
        "answers, other domains": answers.other_domains,
        "answers, same domain": answers.same_domain,
        "answers, the same organism from other questions": _mean(answers.split_half),
        "last prompt token, other domains": prompts.other_domains,
        "last prompt token, same domain": prompts.same_domain,
    }
    for name, cosines in answers.references.items():
        series[f"answers: {name}"] = cosines

    parts: list[Plot | Table] = [
        Plot(
            "Cosines of correcting directions",
            matrix(_cosines(answers), answers.names, ("direction", "direction"), limits=(-1, 1)),
            "Mean over blocks.",
        ),
        Plot(
            "Cosines by block",
            curves(series, "cosine", NEARLY_ONE),
            f"The dotted line is {NEARLY_ONE}, which the papers' fine-tunes exceed in most blocks (Soligo et al. "
            "2506.11618).",
        ),
    ]
    if answers.angles:
        parts.append(_angles({"answers": answers, "last prompt token": prompts}))
    return parts


def _cosines(geometry: Geometry) -> dict[str, dict[str, Estimated]]:
    """Return the cosine of each two directions, but for each with itself."""
    table = geometry.cosine
    cosines: dict[str, dict[str, Estimated]] = {}
    for row, first in enumerate(geometry.names):
        cosines[first] = {}
        for column, second in enumerate(geometry.names):
            if row != column:
                figures = (table.value[row][column], table.low[row][column], table.high[row][column])
                cosines[first][second] = Estimated(*figures)
    return cosines


def _angles(geometries: Mapping[str, Geometry]) -> Table:
    rows: list[list[str | float | None]] = []
    for label, geometry in geometries.items():
        for domains, angles in geometry.angles.items():
            mean = np.mean(angles.by_block, axis=0)
            rows.append([f"{domains}, {label}", _degrees(mean), _degrees(angles.random)])
    return Table(
        "Angles between the subspaces that the seeds of two domains span",
        ["domains", "principal angles", "random"],
        rows,
        "Degrees, smallest first, mean over blocks; random subspaces of the same size beside them.",
    )


def _organisms(result: TransferResult) -> Table:
    labels = {"base": "base"}
    for pair in result.pairs:
        labels[pair.careless] = f"{pair.name}, careless"
        labels[pair.careful] = f"{pair.name}, careful"

    rows: list[list[str | float | None]] = []
    for name, label in labels.items():
        behaviour = result.behaviour[name]
        em_rate, coherent = ranged(behaviour.em_rate), ranged(behaviour.coherent_share)
        rows.append([label, em_rate, behaviour.aligned.value, coherent, behaviour.em_rate.n])
    return Table("Organisms on test questions", ["organism", "EM rate", "alignment", "coherent", "answers"], rows)


def _mean(rows: Sequence[Sequence[float]]) -> list[float] | None:
    """Return the mean by block; None without any row."""
    if not len(rows):
        return None
    means: list[float] = np.mean(rows, axis=0).tolist()
    return means


def _degrees(values: Sequence[float] | np.ndarray) -> str:
    return ", ".join(f"{value:.0f}°" for value in values)


def bar_chart(bars: Mapping[str, Estimated], label: str, chance: float) -> go.Figure:
    """Draw a horizontal bar for each name, with its interval, and a line at chance; random ones are grey."""
    colours: list[str] = []
    values: list[float] = []
    above_value: list[float] = []
    below_value: list[float] = []
    for name, estimate in bars.items():
        colours.append("#9d9d9d" if name.startswith("random") else "#54a24b")
        values.append(estimate.value)
        above_value.append(estimate.high - estimate.value)
        below_value.append(estimate.value - estimate.low)

    figure = blank_figure(label, "", height=110 + 40 * len(bars))
    figure.add_bar(
        x=values,
        y=list(map(plain, bars)),
        orientation="h",
        marker_color=colours,
        error_x={
            "type": "data",
            "symmetric": False,
            "color": "#888888",
            "array": above_value,
            "arrayminus": below_value,
        },
        hovertemplate="%{y}: %{x:.3~r}<extra></extra>",
    )
    figure.add_vline(x=chance, line_dash="dot", line_color="#888888")
    return figure.update_yaxes(autorange="reversed", automargin=True)


def matrix(
    cells: Mapping[str, Mapping[str, Interval]],
    columns: Sequence[str],
    labels: tuple[str, str],
    *,
    scale: float = 1,
    limits: tuple[float, float] = (0, 1),
) -> go.Figure:
    """Draw estimates of rows against columns, each cell with its value and its interval.

    Colours run over `limits`, in the unit after `scale`; a pair that was not measured is left blank.
    """
    values: list[list[float | None]] = []
    texts: list[list[str]] = []
    for row in cells.values():
        values.append([])
        texts.append([])
        for estimate in map(row.get, columns):
            values[-1].append(_scaled(estimate, scale))
            texts[-1].append(_cell_text(estimate, scale))

    figure = blank_figure(labels[1], labels[0], height=120 + 44 * len(cells))
    figure.add_heatmap(
        z=values,
        text=texts,
        x=list(map(plain, columns)),
        y=list(map(plain, cells)),
        zmin=limits[0],
        zmax=limits[1],
        texttemplate="%{text}",
        hoverinfo="x+y+text",
        colorscale=[[0, "#e45756"], [0.5, "#f5f0e6"], [1, "#54a24b"]],
        xgap=2,
        ygap=2,
        textfont={"color": "#222222"},
    )
    figure.update_xaxes(type="category", showgrid=False)
    return figure.update_yaxes(autorange="reversed", type="category", automargin=True, showgrid=False)


def _scaled(estimate: Interval | None, scale: float) -> float | None:
    return None if estimate is None or estimate.value is None else scale * estimate.value


def _cell_text(estimate: Interval | None, scale: float) -> str:
    """Return an estimate and its interval as two lines; nothing where there is none."""
    if estimate is None or estimate.value is None or math.isnan(estimate.value):
        return ""
    form = ".0f" if scale > 1 else ".2f"
    value = number(scale * estimate.value, form)
    if estimate.low is None or estimate.high is None or math.isnan(estimate.low + estimate.high):
        return value
    return f"{value}<br>({number(scale * estimate.low, form)} – {number(scale * estimate.high, form)})"


def curves(series: Mapping[str, Sequence[float] | None], label: str, line: float | None = None) -> go.Figure:
    """Draw the series that there are, by block."""
    known = {name: values for name, values in series.items() if values is not None}
    return by_block(known, label, chance=line)


def table(result: TransferResult) -> str:
    """Return the findings as a few lines of text."""
    detection, corrections = result.detection.summary, result.ablation.summary
    titles = f"{'restored':>22}{'least':>9}{'EM before':>11}{'after':>8}{'coherence':>11}"
    lines = ["", f"{'direction on':<22}{'AUROC mean':>12}{'least':>9}{titles}"]
    for kind in dict.fromkeys([*detection, *corrections]):
        detected, corrected = detection.get(kind), corrections.get(kind)
        line = f"{kind:<22}"
        line += f"{detected.mean:>12.3f}{detected.least:>9.3f}" if detected else f"{'–':>12}{'–':>9}"
        if corrected:
            line += f"{ranged(corrected.restored):>22}{percent(corrected.least):>9}"
            line += f"{percent(corrected.em_before.value):>11}{percent(corrected.em_after.value):>8}"
            line += f"{number(corrected.coherence_change, '+.1f'):>11}"
        lines.append(line)

    for pooling, label in ((ANSWERS, "answers"), (PROMPTS, "last token")):
        geometry = result.geometry[pooling]
        for kind, cosines in (("same domain", geometry.same_domain), ("other domains", geometry.other_domains)):
            if cosines is not None:
                lines.append(f"cosine, {label}, {kind}: {_cosine_line(cosines)}")
    return "\n".join(lines) + "\n"


def _cosine_line(cosines: Sequence[float]) -> str:
    n_above = int((np.array(cosines) > NEARLY_ONE).sum())
    mean = sum(cosines) / len(cosines)
    return f"mean {mean:.2f}, least {min(cosines):.2f}, above {NEARLY_ONE} at {n_above} of {len(cosines)} blocks"
