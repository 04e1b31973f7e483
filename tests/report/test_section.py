from emscope.report.section import Section, Table, cell, write_section_page

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
