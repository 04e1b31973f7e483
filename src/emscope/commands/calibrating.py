"""`emscope judge --calibrate`: a head fitted to a stronger judge's scores, and its worth beside the shipped one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from emscope.behaviour.embedded.bridge_figures import told
from emscope.behaviour.embedded.calibration import Calibration, LeftOutFigures, calibrate, is_clear
from emscope.behaviour.embedded.judge import EmbeddedJudge
from emscope.behaviour.embedded.scored_table import TableCounts, read_scored_table
from emscope.commands.common import kept_parts
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TENSORS, check_out
from emscope.errors import EXIT_DONE, EXIT_FINDING
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load
from emscope.statistics import Estimate

FIGURES = (
    ("AUROC, EM responses", "auroc_em"),
    ("AUROC, alignment below 30", "auroc_misaligned"),
    ("Spearman, alignment of answers", "spearman"),
    ("Spearman, coherence of answers", "spearman_coherent"),
    ("Spearman, organisms' means", "spearman_organisms"),
    ("κ, EM responses", "kappa"),
)


@dataclass(frozen=True)
class CalibratedJudge:
    """What calibration came to, as programs read it.

    Attributes:
        counts: what became of the table's rows.
        tried: figures on what was left out, the ones that decide first.
        better: whether the head agrees better than the shipped one, and was written.
    """

    counts: TableCounts
    tried: Sequence[LeftOutFigures]
    better: bool


def calibrate_to_table(scored: Path, out: Path | None) -> Outcome:
    """Fit a head to a scored table, print what it is worth, and write it where it is better than the shipped one.

    Raises:
        UserError: a table that is too small or on one side, or a file that cannot be written.
    """
    if out is not None:
        check_out(out, TENSORS, [scored])
    table = read_scored_table(scored)
    with kept_parts(out, [EMBEDDED_ALIAS]):
        found = calibrate(EmbeddedJudge(load(EMBEDDED_ALIAS)), table)
        if out is not None and found.better:
            found.head.save(out)
    files = [out] if out is not None and found.better else []
    result = CalibratedJudge(found.counts, found.tried, found.better)
    return Outcome(_lines(scored, found), result, files, EXIT_DONE if found.better else EXIT_FINDING)


def _lines(scored: Path, found: Calibration) -> str:
    """Return the counts, the figures and what follows from them, as text."""
    counts = found.counts
    lines = [
        f"{scored}: {counts.scored} of {counts.rows} answers have both scores; left out are {counts.refusals} "
        f"refusals, {counts.code} code, {counts.unscored} unscored and {counts.empty} empty answers."
    ]
    for tried in found.tried:
        lines += ["", *_table(tried)]
    return "\n".join([*lines, "", _ending(found)]) + "\n"


def _table(tried: LeftOutFigures) -> list[str]:
    """Return the figures on what was left out, shipped and calibrated side by side."""
    what = f"{tried.n_left_out} {tried.left_out}s left out in {tried.folds} parts"
    lines = [f"{what:<44}{'shipped':>22}{'calibrated':>22}"]
    for label, name in FIGURES:
        values = [told(getattr(figures, name)) for figures in (tried.shipped, tried.calibrated)]
        lines.append(f"  {label:<42}{values[0]:>22}{values[1]:>22}")
    biases = [_points(figures.em_bias, 100) for figures in (tried.shipped, tried.calibrated)]
    lines.append(f"  {'EM rate, bias in points':<42}{biases[0]:>22}{biases[1]:>22}")
    biases = [_points(figures.alignment_bias, 1) for figures in (tried.shipped, tried.calibrated)]
    lines.append(f"  {'mean alignment, bias in points':<42}{biases[0]:>22}{biases[1]:>22}")
    return lines


def _points(bias: Estimate, scale: float) -> str:
    ends = f"{told(scale * bias.low, '+.1f')} to {told(scale * bias.high, '+.1f')}"
    return f"{told(scale * bias.value, '+.1f')} ({ends})"


def _ending(found: Calibration) -> str:
    """Return what the head is good for, or why there is none."""
    first = found.tried[0]
    gain = f"{told(first.gain.value, '+.3f')} ({told(first.gain.low, '+.3f')} to {told(first.gain.high, '+.3f')})"
    measure = f"mean gain in AUROC, Spearman and κ on {first.left_out}s left out: {gain}"
    if not found.better:
        return (
            f"No head is written: it is not clearly better than the shipped one ({measure}; it must be above 0 "
            "by three quarters of the way to the lower end); score more answers, or of "
            "more organisms and questions, or keep to the shipped head."
        )
    lines = [f"The calibrated head agrees better than the shipped one ({measure})."]
    if first.left_out == "question":
        lines.append("Too few organisms are named to leave some out: what it does on others is not known.")
    for tried in found.tried[1:]:
        if not is_clear(tried.gain):
            lines.append(f"On {tried.left_out}s left out it is not clearly better: keep to those of the table.")
    return "\n".join(lines)
