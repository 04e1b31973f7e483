"""The report's section on second judges, and the table for the terminal."""

from __future__ import annotations

from emscope.experiments.main.result import BySet
from emscope.experiments.rejudge.plots import misaligned_rates
from emscope.experiments.rejudge.result import ALL, JudgeFigures, RejudgeResult, SecondJudge
from emscope.report.section import Part, Plot, Section, Table
from emscope.statistics import Estimate

KAPPA_IN_WORDS = ((0.8, "nearly always"), (0.6, "mostly"), (0.4, "moderately"), (0.2, "a little"))
"""How far two judges agree, by κ (the usual names of Landis and Koch 1977)."""


def section(result: RejudgeResult) -> Section:
    """Return the section of experiments/rejudge.json."""
    paragraphs = [_finding(result.first, other) for other in result.others]
    paragraphs.append(" ".join(str(judge.judged_by) for judge in (result.first, *_second(result))))
    paragraphs.append(
        "Every judge scored the same answers. The ablation is the one that the first judge chose. κ is agreement on "
        "which answers are EM responses, beyond chance: 1 is perfect, 0 is chance."
    )
    judges = [result.first, *_second(result)]
    parts: list[Part] = [
        Plot("EM rate of the misaligned organism, by judge", misaligned_rates(judges)),
        _figures_table(judges),
        _correction_table(judges),
        *(_agreement_table(result.first, other) for other in result.others),
    ]
    return Section("rejudge", "Second judges", paragraphs, parts)


def _second(result: RejudgeResult) -> list[JudgeFigures]:
    return [other.figures for other in result.others]


def _finding(first: JudgeFigures, other: SecondJudge) -> str:
    """Return in a sentence whether a second judge finds what the first one found."""
    figures = other.figures
    agreed = other.agreement[ALL]
    name, before = figures.judged_by.name, first.judged_by.name
    if agreed is None:
        return f"{name} and {before} scored no answer both, so they cannot be compared."
    if agreed.kappa != agreed.kappa:
        finding = f"{name} and {before} cannot be told apart by κ: both call no answer an EM response, or all"
    else:
        finding = f"{name} agrees {_in_words(agreed.kappa)} with {before} on which answers are EM responses"
    return (
        f"{finding} (κ {_figure(agreed.kappa)} on {agreed.n} answers; alignment ranks at Spearman "
        f"{_figure(agreed.aligned_spearman)}). By it the ablation restores {_percent(figures.restored)} of alignment, "
        f"by the first judge {_percent(first.restored)}."
    )


def _in_words(kappa: float) -> str:
    for least, words in KAPPA_IN_WORDS:
        if kappa >= least:
            return words
    return "no better than by chance" if kappa < 0.05 else "hardly"


def _figures_table(judges: list[JudgeFigures]) -> Table:
    rows: list[list[str | float | None]] = []
    for name, by_set in judges[0].em_rate.items():
        for question_set in by_set:
            for figures in judges:
                rows.append(
                    [
                        name,
                        question_set,
                        figures.judged_by.name,
                        _percent(figures.em_rate[name][question_set]),
                        _points(figures.alignment_mean, name, question_set),
                        _percent(figures.coherent_share[name][question_set]),
                    ]
                )
    header = ["organism", "question set", "judge", "EM rate", "alignment", "coherent"]
    return Table("Every rate by every judge", header, rows)


def _correction_table(judges: list[JudgeFigures]) -> Table:
    rows: list[list[str | float | None]] = []
    for figures in judges:
        rows.append(
            [
                figures.judged_by.name,
                _percent(figures.restored),
                _percent(figures.random_restored),
                _signed(figures.coherence_change),
                _signed(-figures.base_cost),
            ]
        )
    header = ["judge", "alignment restored", "by a random direction", "coherence, points", "base's alignment, points"]
    return Table("The correction by every judge", header, rows, "On test questions.")


def _agreement_table(first: JudgeFigures, other: SecondJudge) -> Table:
    rows: list[list[str | float | None]] = []
    for name, agreed in other.agreement.items():
        if agreed is None:
            rows.append([name, 0, None, None, None, None, None, None])
            continue
        rows.append(
            [
                name,
                agreed.n,
                _figure(agreed.kappa),
                agreed.em_both,
                agreed.em_first_only,
                agreed.em_second_only,
                _figure(agreed.aligned_spearman),
                _signed(agreed.aligned_difference),
            ]
        )
    header = ["answers", "scored by both", "κ", "EM by both", "first only", "second only", "Spearman", "first − second"]
    title = f"{first.judged_by.name} and {other.figures.judged_by.name}"
    return Table(title, header, rows, "Spearman and the mean difference are of alignment, 0 to 100.")


def table(result: RejudgeResult) -> str:
    """Return every figure of the run by each judge, and their agreement, as lines of text."""
    judges = [result.first, *_second(result)]
    lines = [""]
    for number, figures in enumerate(judges, 1):
        lines.append(f"judge {number}: {figures.judged_by}")
    title = f"{'organism':<12}{'question set':<20}"
    lines += ["", title + "".join(f"{f'EM / coherent, judge {number}':>28}" for number in range(1, len(judges) + 1))]
    for name, by_set in result.first.em_rate.items():
        for question_set in by_set:
            cells = []
            for figures in judges:
                em, coherent = figures.em_rate[name][question_set], figures.coherent_share[name][question_set]
                cells.append(f"{f'{_percent(em)} / {_percent(coherent)}':>28}")
            lines.append(f"{name:<12}{question_set:<20}" + "".join(cells))
    lines.append("")
    for number, figures in enumerate(judges, 1):
        restored, by_chance = _ranged(figures.restored), _percent(figures.random_restored)
        lines.append(f"judge {number}: {restored} of alignment restored, random direction {by_chance}")
    lines.append("")
    for number, other in enumerate(result.others, 2):
        lines += _agreement_lines(number, other)
    return "\n".join(lines) + "\n"


def _agreement_lines(number: int, other: SecondJudge) -> list[str]:
    lines = []
    for name, agreed in other.agreement.items():
        if agreed is None:
            lines.append(f"judges 1 and {number}, {name}: no answer has scores of both")
            continue
        lines.append(
            f"judges 1 and {number}, {name}: κ {_figure(agreed.kappa)} of EM, Spearman "
            f"{_figure(agreed.aligned_spearman)} of alignment, {agreed.n} answers"
        )
    return lines


def _percent(estimate: Estimate) -> str:
    return "–" if estimate.value != estimate.value else f"{100 * estimate.value:.0f} %"


def _ranged(estimate: Estimate) -> str:
    if estimate.value != estimate.value or estimate.low != estimate.low:
        return _percent(estimate)
    return f"{_percent(estimate)} ({100 * estimate.low:.0f} – {100 * estimate.high:.0f})"


def _points(figures: BySet, name: str, question_set: str) -> str:
    value = figures[name][question_set].value
    return "–" if value != value else f"{value:.1f}"


def _figure(value: float) -> str:
    return "–" if value != value else f"{value:.2f}"


def _signed(value: float) -> str:
    return "–" if value != value else f"{round(value, 1) + 0.0:+.1f}"  # no -0.0
