"""The words of the steering section follow its figures, whichever way they fall."""

from dataclasses import replace

import pytest
from edges import ENDS
from results import holed

from emscope.experiments.bench import SteeredRow
from emscope.experiments.steer.page import section, table
from emscope.experiments.steer.result import Bars, CapRow, Chosen, CurveRow, ReportedRow, SteerResult
from emscope.interventions.steering import SteeredFigures
from emscope.plain import plain
from emscope.report.section import Plot, write_section_page
from emscope.statistics import Estimate

V = "control-response-diff-in-means"
NAMES = ("base", "misaligned", "control")


def share(value, half=0.05):
    return Estimate(value, value - half, value + half, 20)


def figures(kl=0.5, aligned=60.0, coherent=0.7, em=0.2):
    return {"kl": share(kl), "aligned": share(aligned, 5), "coherent": share(coherent), "em": share(em)}


def row(kind, organism, coefficient, direction=V, **more):
    return kind(
        **{**figures(), **more},
        organism=organism,
        direction=direction,
        blocks=(3,),
        coefficient=coefficient,
        relative=0.1,
    )


@pytest.fixture
def result():
    unsteered = {"base": figures(0.0, em=0.01), "misaligned": figures(0.0, em=0.55), "control": figures(0.0, em=0.0)}
    unsteered = {name: SteeredFigures(**values) for name, values in unsteered.items()}
    curves = [
        row(CurveRow, name, 1.0, direction, level=1.0, kl_target=0.8, kl_reached=True)
        for name in NAMES[:2]
        for direction in (V, f"{V}-random")
    ]
    return SteerResult(
        direction=V,
        places=((3,),),
        blocks=(3,),
        directions={V: [1.0]},
        residual_norm={"base": [10.0]},
        fine_tune_kl={name: share(0.8) for name in NAMES},
        unsteered=unsteered,
        unsteered_dial=unsteered,
        unsteered_curves=unsteered,
        dial=tuple(row(SteeredRow, name, c) for name in NAMES for c in (-1.0, 1.0)),
        chosen={"misaligned": Chosen((3,), -1.0, 0.5), "base": Chosen((3,), 1.0, 0.5)},
        curves=tuple(curves),
        caps=(CapRow(blocks=(3,), width=1.0, **figures(), restored=share(0.4)),),
        test=(
            row(ReportedRow, "misaligned", -1.0, role="correction", restored=share(0.95)),
            row(ReportedRow, "misaligned", -1.4, "<b>random</b>", role="compared", restored=share(0.02)),
            row(ReportedRow, "base", 1.0, role="induction"),
            row(ReportedRow, "base", 1.4, "<b>random</b>", role="compared"),
        ),
        bars=Bars(0.95, 0.6, 12.0, 10.5, 0.85, 0.1),
    )


def words(result):
    return " ".join(section(result).paragraphs)


def with_row(result, number, **changes):
    rows = list(result.test)
    rows[number] = replace(rows[number], **changes)
    return replace(result, test=tuple(rows))


def test_the_section_opens_with_one_sentence_and_one_picture(result):
    shown = section(result)
    assert shown.paragraphs[0].count(". ") == 0
    assert (
        "EM rate goes from 55 % to 20 % (15 – 25); 95 % (90 – 100) of its alignment is restored" in shown.paragraphs[0]
    )
    assert isinstance(shown.parts[0], Plot)
    bars = {bar.name: list(bar.y) for bar in shown.parts[0].figure.data}
    assert bars["EM rate"] == pytest.approx([55, 20, 1])
    assert bars["alignment"] == pytest.approx([60, 60, 60])
    assert set(result.figures()) == {part.title for part in shown.parts if isinstance(part, Plot)}


def test_a_strong_effect_is_called_one(result):
    assert "restores at least nine tenths of alignment, at no more disturbance" in words(result)
    assert "at least 10 times as many, by the ends of both intervals" in words(result)
    assert "fewer than four in five" not in words(result)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"restored": 0.4}, "restores less than nine tenths, at no more disturbance than the fine-tune's own"),
        ({"restored": 0.4, "kl_over_fine_tune": 1.5}, "less than nine tenths, at more disturbance"),
        ({"kl_over_fine_tune": 1.5}, "at least nine tenths of alignment, at more disturbance"),
        ({"em_ratio_at_least": 1.1}, "more than the base, but not surely 10 times as many"),
        ({"em_ratio": None}, "at least 10 times as many"),
        ({"em_ratio_at_least": 0.0, "em_ratio": None}, "no clear effect"),
        ({"em_ratio_at_least": float("nan")}, "no clear effect"),
        ({"coherent": 0.5}, "fewer than four in five"),
    ],
)
def test_a_weak_effect_is_not_dressed_up(result, change, expected):
    assert expected in words(replace(result, bars=replace(result.bars, **change)))


@pytest.mark.parametrize(("coherent", "said"), [(0.12, True), (0.7, False), (float("nan"), False)])
def test_a_share_restored_by_incoherent_answers_is_said_to_be_one(result, coherent, said):
    incoherent = section(with_row(result, 0, coherent=share(coherent)))
    remark = "95 % (90 – 100) of its alignment is restored, but by mostly incoherent answers (12 % coherent)"
    assert (remark in incoherent.paragraphs[0]) == said
    tables = [part for part in incoherent.parts if not isinstance(part, Plot)]
    assert ("95 % (90 – 100), incoherent" in str(tables[0].rows)) == said


def test_an_organism_that_is_not_misaligned_is_not_called_so(result):
    harmless = {**result.unsteered, "misaligned": SteeredFigures(**figures(0.0, em=0.03))}
    shown = section(replace(result, unsteered=harmless))
    assert "the fine-tuned organism" in shown.paragraphs[0]
    assert "nothing to correct" in shown.paragraphs[0]
    assert not any("misaligned organism" in text for text in [*shown.paragraphs, *(part.title for part in shown.parts)])


def test_missing_figures_and_hostile_names_are_shown_safely(result, tmp_path):
    nan = float("nan")
    holes = with_row(result, 1, restored=Estimate(0.1, nan, nan, 1))
    holes = replace(holes, dial=(replace(holes.dial[0], aligned=Estimate(nan, nan, nan, 0)), *holes.dial[1:]))
    write_section_page(tmp_path / "page.html", [section(holes)], "steering")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "<td>&lt;b&gt;random&lt;/b&gt;</td>" in page
    assert ">10 %<" in page
    assert "<b>random" not in page


def test_directions_at_another_disturbance_are_counted_and_marked(result):
    assert "all are within 20 %" in words(result)
    unequal = with_row(with_row(result, 1, kl=share(0.61)), 3, kl=share(0.59))
    assert "1 of 2 are more than 20 % off" in words(unequal)
    (shown,) = [part for part in section(unequal).parts if part.title == "On test questions"]
    marked = [cells[0] for cells in shown.rows if str(cells[1]).endswith(" *")]
    assert marked == ["misaligned"]


def test_the_terminals_table_has_a_line_a_row_and_a_dash_for_what_is_missing(result):
    lines = table(result).splitlines()
    assert len([line for line in lines if line.startswith(NAMES)]) == len(result.unsteered) + len(result.test)
    nan = float("nan")
    assert "–" in table(with_row(result, 0, aligned=Estimate(nan, nan, nan, 0))).splitlines()[6]


def test_figures_with_holes_have_a_section(result, tmp_path):
    stored = plain(result)
    for keys in (ENDS, ("value", *ENDS), ("bars",)):
        write_section_page(tmp_path / "page.html", [section(holed(SteerResult, stored, *keys))], "steering")
        assert 'id="steer"' in (tmp_path / "page.html").read_text(encoding="utf-8")
