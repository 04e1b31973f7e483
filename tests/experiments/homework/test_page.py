"""The homework's comparison: as published beside measured, with a warning where it rests on nonsense."""

import pytest

from emscope.experiments.homework.page import caution_of, section, table
from emscope.experiments.homework.result import ComparedFigure, HomeworkAblation, MeanScores, MethodScores
from emscope.report.section import write_section_page

NAN = float("nan")


def ablation(coherent=90.0, restored=0.6):
    means = {"base": MeanScores(90, 90), "misaligned": MeanScores(20, 90), "ablated": MeanScores(60, coherent)}
    return HomeworkAblation(means, restored, 5)


def test_a_share_over_whole_answers_stands_alone():
    assert caution_of(ablation()) == ""


@pytest.mark.parametrize("coherent", [20.0, NAN])
def test_a_share_over_nonsense_is_marked_in_both_places(coherent, tmp_path):
    weak = ablation(coherent, 2.7991)
    compared = {"separation": ComparedFigure(8.33, 1.0), "restored": ComparedFigure("by eye", NAN)}
    scores = {"diff_in_means": MethodScores({}, {}, {"base": {"12": 1.0}}, 1.0)}
    text = table(compared, weak, "a/model", "embedded")
    assert "restored share (280 %) rests on incoherent answers" in text
    assert "by eye" in text
    assert "n/a" in text
    shown = section(compared, scores, weak, "<script>", "embedded")
    assert "shows no correction" in shown.paragraphs[1]
    write_section_page(tmp_path / "page.html", [shown], "<script>alert(1)</script>")
    assert "<script>alert" not in (tmp_path / "page.html").read_text(encoding="utf-8")
