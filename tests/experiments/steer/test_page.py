"""The words of the steering section follow its figures, whichever way they fall."""

import copy

import pytest
from edges import ENDS, without

from emscope.experiments.steer.page import section
from emscope.report.section import write_section_page


def share(value, half=0.05, n=20):
    return {"value": value, "low": value - half, "high": value + half, "n": n}


def figures(kl=0.5, aligned=60.0, coherent=0.7, em=0.2):
    return {"kl": share(kl), "aligned": share(aligned, 5), "coherent": share(coherent), "em": share(em)}


def row(organism, coefficient, role=None, direction="control-response-diff-in-means", **more):
    extra = {"role": role} if role else {}
    where = {"organism": organism, "direction": direction, "blocks": [3], "coefficient": coefficient, "relative": 0.1}
    return {**where, **figures(), **extra, **more}


@pytest.fixture
def found():
    names = ("base", "misaligned", "control")
    return {
        "direction": "control-response-diff-in-means",
        "blocks": [3],
        "fine_tune_kl": {name: share(0.8) for name in names},
        "unsteered": {name: figures(0.0) for name in names},
        "unsteered_dial": {name: figures(0.0) for name in names},
        "dial": [row(name, c) for name in names for c in (-1.0, 1.0)],
        "chosen": {"misaligned": {"blocks": [3], "coefficient": -1.0}, "base": {"blocks": [3], "coefficient": 1.0}},
        "curves": [row(name, 1.0, level=1.0, direction=d) for name in names[:2] for d in ("one", "two")],
        "caps": [{"blocks": [3], "width": 1.0, **figures(), "restored": share(0.4)}],
        "test": [
            row("misaligned", -1.0, "correction", restored=share(0.95)),
            row("misaligned", -1.4, "compared", "<b>random</b>", restored=share(0.02)),
            row("base", 1.0, "induction"),
            row("base", 1.4, "compared", "<b>random</b>"),
        ],
        "bars": {
            "restored": 0.95,
            "kl_over_fine_tune": 0.6,
            "em_ratio": 12.0,
            "em_ratio_at_least": 10.5,
            "coherent": 0.85,
            "coherent_change": 0.1,
        },
    }


def test_a_strong_effect_is_called_one(found):
    words = section(found).paragraphs[0]
    assert "nine tenths or more, at no more disturbance" in words
    assert "12.0 times the base's, at least 10.5 times by the ends of the two intervals: ten times is shown" in words
    assert "(four in five" in words


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"restored": 0.4}, "at no more disturbance than the fine-tune's, but short of nine tenths"),
        ({"restored": 0.4, "kl_over_fine_tune": 1.5}, "short of nine tenths, and at more disturbance"),
        ({"kl_over_fine_tune": 1.5}, "nine tenths or more, but at more disturbance"),
        (
            {"em_ratio_at_least": 1.1},
            "12.0 times the base's, at least 1.1 times by the ends of the two intervals: ten times is not shown",
        ),
        (
            {"em_ratio": None},
            "the base gave none, at least 10.5 times by the ends of the two intervals: ten times is shown",
        ),
        ({"em_ratio_at_least": None}, "at least – times by the ends of the two intervals: ten times is not shown"),
        ({"coherent": 0.5}, "not four in five"),
    ],
)
def test_a_weak_effect_is_not_dressed_up(found, change, expected):
    weak = copy.deepcopy(found)
    weak["bars"].update(change)
    assert expected in section(weak).paragraphs[0]


def test_missing_figures_and_hostile_names_are_shown_safely(found, tmp_path):
    found["dial"][0]["aligned"] = {"value": None, "low": None, "high": None, "n": 0}
    found["test"][1]["restored"] = {"value": 0.1, "low": None, "high": None, "n": 1}
    write_section_page(tmp_path / "page.html", [section(found)], "steering")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "&lt;b&gt;random&lt;/b&gt; 10 %" in page
    assert "<b>random" not in page


def test_every_comparison_has_its_disturbance_and_unequal_ones_are_marked(found):
    found["test"][1]["kl"], found["test"][3]["kl"] = share(0.61), share(0.42)
    words = section(found).paragraphs[1]
    assert "control-response-diff-in-means 95 % (90 – 100) at 0.50 nats a token;" in words
    assert "2 % (-3 – 7) at 0.61 nats a token (not the same disturbance: more than 20 % off)" in words
    assert words.endswith("20 % (15 – 25) at 0.42 nats a token.")


def test_figures_with_holes_have_a_section(found, tmp_path):
    for keys in (ENDS, ("value", *ENDS), ("bars",)):
        write_section_page(tmp_path / "page.html", [section(without(found, *keys))], "steering")
        assert 'id="steer"' in (tmp_path / "page.html").read_text(encoding="utf-8")
