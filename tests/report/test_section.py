from emscope.files import write_json
from emscope.report.section import Section, Table, cell, write_section_page
from emscope.report.sections import experiment_file, sections_of

HOSTILE = "<script>alert(1)</script>"


def test_everything_in_a_section_is_escaped_and_nothing_is_shown_as_a_dash(tmp_path):
    table = Table(HOSTILE, ["organism", HOSTILE], [[HOSTILE, None], ["base", 0.12345]], HOSTILE)
    write_section_page(tmp_path / "page.html", [Section("steer", HOSTILE, [HOSTILE], [table])], HOSTILE)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)") == 8
    assert '<td class="n">–</td>' in page
    assert "0.123" in page


def test_cells_round_and_keep_whole_numbers_whole():
    assert [cell(value) for value in (None, float("nan"), "text", 1234, 1234.5, 0.00012345)] == [
        "–", "–", "text", "1,234", "1,234", "0.000123",
    ]  # fmt: skip


def test_figures_of_another_version_are_named_and_do_not_lose_the_page(tmp_path):
    write_json(experiment_file(tmp_path, "steer"), {"old": 1})
    (section,) = sections_of(tmp_path)
    assert section.key == "steer"
    assert "another version of emscope" in section.paragraphs[0]
