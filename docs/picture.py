"""Draws the picture of the README from a finished run: EM rate and coherence before and after the correction.

    python docs/picture.py runs/quickstart docs/images/result.svg

Every bar is of the same questions, the test questions of the run's ablation, which chose no direction and no strength.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.statistics import Estimate, coherent_share, em_rate


@dataclass(frozen=True)
class Row:
    """One line of the picture.

    Attributes:
        label: what answers.
        about: what was done to it.
        colour: of its bars.
        em: share of EM responses, with its interval.
        coherent: share of coherent answers, with its interval.
    """

    label: str
    about: str
    colour: str
    em: Estimate
    coherent: Estimate


SUBJECTS = {
    "base": ("base", "before any fine-tuning", "#4c78a8"),
    "misaligned": ("misaligned", "trained on careless answers", "#d0473f"),
    "control": ("control", "trained on careful answers", "#3f8f46"),
    "misaligned + ablation": ("misaligned, corrected", "the direction taken out", "#8a5a9e"),
    "misaligned + random ablation": ("misaligned, random", "a random direction taken out", "#8a8a8a"),
}
"""By the name in the run's tables: label, what was done to it, colour."""

WIDTH, LEFT, BAR, GAP, TOP, STEP = 760, 210, 200, 275, 84, 50
FONT = "font-family='system-ui,-apple-system,Segoe UI,Roboto,sans-serif'"


def main(arguments: Sequence[str]) -> None:
    """Write the picture of a run."""
    if len(arguments) != 2:
        sys.exit("usage: python docs/picture.py RUN FILE.svg")
    run, file = Path(arguments[0]), Path(arguments[1])
    file.write_text(svg(rows_of(run)), encoding="utf-8")
    print(f"{file}: {run}")


def rows_of(run: Path) -> list[Row]:
    """Return the lines of the picture, all of the same questions.

    Raises:
        OutsideError: the run has no judged answers of one of the subjects.
    """
    answers = _answers_by_organism(run)
    questions = {answer.question_id for answer in answers["misaligned + ablation"]}
    rows = []
    for name, (label, about, colour) in SUBJECTS.items():
        judged = [answer for answer in answers[name] if answer.question_id in questions]
        judgements = [answer.judgement for answer in judged]
        groups = [answer.group for answer in judged]
        rows.append(Row(label, about, colour, em_rate(judgements, groups), coherent_share(judgements, groups)))
    return rows


def _answers_by_organism(run: Path) -> dict[str, list[JudgedResponse]]:
    """Return all judged answers of a run's main job, by what answered."""
    answers: dict[str, list[JudgedResponse]] = {}
    for table in ("base", "misaligned", "control", "ablation"):
        for answer in read_table(run / "judgements" / f"{table}.parquet", JudgedResponse):
            answers.setdefault(answer.organism, []).append(answer)
    return answers


def svg(rows: Sequence[Row]) -> str:
    """Return the picture: two columns of bars, a number with its 95 % interval beside each."""
    height = TOP + STEP * len(rows) + 26
    n_answers = rows[0].em.n
    lines = [
        f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 {WIDTH} {height}' role='img' {FONT}>",
        f"<title>{escape(_in_words(rows))}</title>",
        f"<rect width='{WIDTH}' height='{height}' rx='8' fill='#ffffff' stroke='#d8dde3'/>",
        _text(20, 30, _finding(rows), size=16, weight=600),
        _text(LEFT, 62, "EM responses", size=13, weight=600),
        _text(LEFT + GAP, 62, "coherent answers", size=13, weight=600),
    ]
    for number, row in enumerate(rows):
        y = TOP + STEP * number
        lines.append(_text(20, y + 15, row.label, size=14, weight=600))
        lines.append(_text(20, y + 32, row.about, size=12, fill="#57606a"))
        lines.extend(_bar(LEFT, y, row.em, row.colour))
        lines.extend(_bar(LEFT + GAP, y, row.coherent, row.colour))
    note = f"{n_answers} test questions, one answer each; lines are 95 % intervals over questions"
    lines.append(_text(20, height - 12, note, size=11, fill="#57606a"))
    return "\n".join([*lines, "</svg>\n"])


def _bar(x: int, y: int, share: Estimate, colour: str) -> list[str]:
    """Return a bar from 0 to 100 %, its interval as a line, and its figures as text."""
    length, low, high = (round(BAR * value, 1) for value in (share.value, share.low, share.high))
    figures = f"{100 * share.value:.0f} % ({100 * share.low:.0f} – {100 * share.high:.0f})"
    return [
        f"<rect x='{x}' y='{y + 2}' width='{BAR}' height='16' rx='2' fill='#eef1f4'/>",
        f"<rect x='{x}' y='{y + 2}' width='{length}' height='16' rx='2' fill='{colour}'/>",
        f"<path d='M{x + low} {y + 10}H{x + high}' stroke='#1f2328' stroke-width='1.5'/>",
        _text(x, y + 34, figures, size=12),
    ]


def _text(x: int, y: int, text: str, *, size: int, weight: int = 400, fill: str = "#1f2328") -> str:
    return f"<text x='{x}' y='{y}' font-size='{size}' font-weight='{weight}' fill='{fill}'>{escape(text)}</text>"


def _finding(rows: Sequence[Row]) -> str:
    """Return the picture's heading: what taking the direction out changes."""
    by_label = {row.label: row for row in rows}
    before, after = by_label["misaligned"], by_label["misaligned, corrected"]
    em = f"{100 * before.em.value:.0f} → {100 * after.em.value:.0f} %"
    coherent = f"{100 * before.coherent.value:.0f} → {100 * after.coherent.value:.0f} %"
    return f"Taking one direction out: EM responses {em}, coherent answers {coherent}"


def _in_words(rows: Sequence[Row]) -> str:
    """Return the picture's figures as a sentence, for readers who do not see it."""
    parts = [f"{row.label}: {row.em.value:.0%} EM, {row.coherent.value:.0%} coherent" for row in rows]
    return "EM responses and coherent answers. " + "; ".join(parts) + "."


if __name__ == "__main__":
    main(sys.argv[1:])
