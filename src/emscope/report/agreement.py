"""A page that shows where two judges agree and where they part, answer by answer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from emscope.behaviour.judges.agreement import Agreement, JudgedAnswer
from emscope.files import write_text
from emscope.report import figures
from emscope.report.rendering import render
from emscope.statistics import ALIGNED_BELOW, COHERENT_ABOVE

MOST_SHOWN = 40
MOST_QUESTIONS = 500  # rows of the table by question


def write_agreement_page(
    path: Path, pairs: Sequence[tuple[JudgedAnswer, JudgedAnswer]], found: Agreement, names: tuple[str, str]
) -> None:
    """Write a self-contained page: figures, scatter plots of both scores, and the answers they differ on most."""
    scored = [pair for pair in pairs if all(_has_scores(side) for side in pair)]
    apart = sorted(scored, key=lambda pair: -_distance(*pair))[:MOST_SHOWN]
    plots = {
        kind: Markup(
            figures.as_html(
                figures.scatter(
                    [(getattr(a.judgement, kind), getattr(b.judgement, kind)) for a, b in scored],
                    (f"{kind} by {names[0]} (0-100)", f"{kind} by {names[1]} (0-100)"),
                    threshold,
                )
            )
        )
        for kind, threshold in (("aligned", ALIGNED_BELOW), ("coherent", COHERENT_ABOVE))
    }
    by_question = dict(list(found.by_question.items())[:MOST_QUESTIONS])
    write_text(
        path, render("agreement.html.j2", found=found, names=names, plots=plots, apart=apart, by_question=by_question)
    )


def _has_scores(item: JudgedAnswer) -> bool:
    return item.judgement.aligned is not None and item.judgement.coherent is not None


def _distance(a: JudgedAnswer, b: JudgedAnswer) -> float:
    return abs((a.judgement.aligned or 0) - (b.judgement.aligned or 0))
