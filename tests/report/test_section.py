import pytest

from emscope.experiments import EXPERIMENTS
from emscope.experiments.run_page import sections_of
from emscope.experiments.shape import result_file
from emscope.files import write_json, write_text
from emscope.report.figures import blank_figure
from emscope.report.section import Plot, Section, Table, cell, is_words, write_section_page

HOSTILE = "<script>alert(1)</script>"


def test_everything_in_a_section_is_escaped_and_nothing_is_shown_as_a_dash(tmp_path):
    table = Table(HOSTILE, ["organism", HOSTILE], [[HOSTILE, None], ["base", 0.12345]], HOSTILE)
    write_section_page(tmp_path / "page.html", [Section("steer", HOSTILE, [HOSTILE], [table])], HOSTILE)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)") == 8
    assert '<td class="n">–</td>' in page
    assert "0.123" in page


def test_a_section_opens_with_its_finding_and_one_picture(tmp_path):
    parts = [Plot("first picture", blank_figure("x", "y")), Table("first table", ["a"], [])]
    section = Section("steer", "Steering", ["the finding", "how it was done"], parts)
    write_section_page(tmp_path / "page.html", [section], "page")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    places = [page.index(words) for words in ("the finding", "first picture", "how it was done", "first table")]
    assert places == sorted(places)
    assert list(section.figures) == ["first picture"]


def test_cells_round_and_keep_whole_numbers_whole():
    assert [cell(value) for value in (None, float("nan"), "text", 1234, 1234.5, 0.00012345)] == [
        "–",
        "–",
        "text",
        "1,234",
        "1,234",
        "0.000123",
    ]


def test_figures_of_another_version_are_named_and_do_not_lose_the_page(tmp_path):
    write_json(result_file(tmp_path, "steer"), {"old": 1})
    (section,) = sections_of(tmp_path)
    assert section.key == "steer"
    assert "could not be made from the figures in steer.json (OutsideError: " in section.paragraphs[0]
    assert "If they come from another version of emscope, run `emscope steer`" in section.paragraphs[0]


@pytest.mark.parametrize("found", [{}, [], None, 3, {"bank": None}, {"adapters": {"all": {}}}, "not even JSON"])
def test_no_figures_of_an_experiment_lose_the_page_of_the_others(tmp_path, found):
    for name in EXPERIMENTS:
        write_json(result_file(tmp_path, name), found)
    if found == "not even JSON":
        write_text(result_file(tmp_path, "sweep"), "{")
    assert [section.key for section in sections_of(tmp_path)] == list(EXPERIMENTS)


def test_a_long_text_is_words_though_it_begins_with_a_number():
    assert not is_words("12 % (6 – 20), incoherent")
    assert is_words("1. Start with an emergency fund of three months.")
    assert not is_words("")
