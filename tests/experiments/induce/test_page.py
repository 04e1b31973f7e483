"""The words of the section on a trained vector follow its figures."""

from dataclasses import replace

import pytest
from edges import ENDS
from results import holed

from emscope.experiments.bench import SteeredRow
from emscope.experiments.induce.page import section
from emscope.experiments.induce.result import (
    CAREFUL,
    CARELESS,
    WITH,
    WITHOUT,
    Bars,
    Downstream,
    InduceResult,
    VectorRow,
    VectorTraining,
)
from emscope.interventions.steering import SteeredFigures
from emscope.plain import plain
from emscope.report.section import Plot, write_section_page
from emscope.statistics import Estimate

MAIN = "control-response-diff-in-means"


def share(value, half=0.05):
    return Estimate(value, value - half, value + half, 20)


def figures(em, coherent=0.9):
    return SteeredFigures(share(0.5), share(60.0, 5), share(coherent), share(em))


def row(kind, organism, direction, em, coherent=0.9, **more):
    of_row = vars(figures(em, coherent))
    return kind(organism=organism, direction=direction, blocks=(3,), coefficient=1.0, relative=0.1, **of_row, **more)


@pytest.fixture
def result():
    return InduceResult(
        block=3,
        data={CARELESS: "medical-careless", CAREFUL: "medical-careful"},
        training={CARELESS: VectorTraining([2.0, 1.0], 1.0, 0.5, 3.0, 8)},
        unsteered={"base": figures(0.03, 0.5), "misaligned": figures(0.5)},
        unsteered_dial=figures(0.03, 0.5),
        fine_tune_kl=share(1.0),
        dial=(row(SteeredRow, "base", CARELESS, 0.4), row(SteeredRow, "base", CAREFUL, 0.03)),
        coefficient=1.0,
        test=(
            row(VectorRow, "base", CARELESS, 0.48),
            row(VectorRow, "base", CAREFUL, 0.02),
            row(VectorRow, "base", MAIN, 0.01),
            row(VectorRow, "misaligned", CARELESS, 0.1, 0.02, restored=share(0.82)),
        ),
        by_set={"open-ended": {WITHOUT: figures(0.0), WITH: figures(0.25)}},
        cosines={CAREFUL: 0.5, MAIN: 0.2},
        downstream=Downstream((3, 4), {CARELESS: {MAIN: [0.2, 0.4]}}),
        bars=Bars(share(0.02), 24.0, 10.8, 0.9),
    )


def test_the_section_opens_with_one_sentence_and_one_picture(result):
    shown = section(result)
    assert shown.paragraphs[0].count(". ") == 0
    assert (
        "takes the base's EM rate from 3 % to 48 % (43 – 53); 90 % of its answers are coherent" in shown.paragraphs[0]
    )
    assert isinstance(shown.parts[0], Plot)
    bars = {bar.name: list(bar.y) for bar in shown.parts[0].figure.data}
    assert bars["EM rate"] == pytest.approx([3, 48, 2, 1, 50])
    assert set(result.figures()) == {part.title for part in shown.parts if isinstance(part, Plot)}


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ({}, "One vector is enough: at least 10 times the base's own EM rate"),
        ({"em_ratio_at_least": 3.0}, "though not surely 10 times as much"),
        ({"em_ratio_at_least": 0.4}, "No clear effect"),
        ({"em_ratio_at_least": None, "em_ratio": None}, "No clear effect"),
        ({"em_ratio_at_least": float("nan")}, "No clear effect"),
        ({"coherent": 0.5}, "fewer than four answers in five are coherent"),
        ({"coherent": float("nan")}, "fewer than four answers in five are coherent"),
    ],
)
def test_the_verdict_follows_the_intervals(result, bars, expected):
    verdict = section(replace(result, bars=replace(result.bars, **bars))).paragraphs[1]
    assert expected in verdict
    assert "vector trained on careful rows 2 % (-3 – 7), misaligned − control 1 % (-4 – 6)." in verdict


def test_a_share_restored_by_incoherent_answers_is_said_to_be_one(result):
    remark = "82 % (77 – 87) of its alignment is restored, but by mostly incoherent answers (2 % coherent)"
    assert remark in section(result).paragraphs[2]
    whole = replace(result, test=(*result.test[:3], replace(result.test[3], coherent=share(0.9))))
    assert not any("mostly incoherent" in text for text in section(whole).paragraphs)


def test_figures_with_holes_have_a_section(result, tmp_path):
    stored = plain(result)
    for keys in (ENDS, ("value", *ENDS)):
        write_section_page(tmp_path / "page.html", [section(holed(InduceResult, stored, *keys))], "induce")
        assert 'id="induce"' in (tmp_path / "page.html").read_text(encoding="utf-8")
