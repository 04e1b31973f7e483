import re

from emscope.report.section import Section, TokenMap, TokenText, write_section_page

HOSTILE = "<script>alert(1)</script>"


def page_of(tmp_path, *texts, **more):
    part = TokenMap(HOSTILE, list(texts), HOSTILE, HOSTILE, **more)
    write_section_page(tmp_path / "page.html", [Section("monitor", "Monitor", ["Found."], [part])], "Monitor")
    return (tmp_path / "page.html").read_text(encoding="utf-8")


def test_tokens_are_escaped_and_nothing_of_them_is_lost(tmp_path):
    pieces = ["<script>", 'alert("1")', "</script>", "&amp;", "\n", " 🙂", "{{ 7 * 7 }}"]
    page = page_of(tmp_path, TokenText(HOSTILE, [(piece, 0.5) for piece in pieces]))
    assert HOSTILE not in page
    assert page.count("&lt;script&gt;alert(1)") == 4  # title, unit, label, caption
    assert "&lt;script&gt;</span>" in page
    assert "&amp;amp;" in page
    assert "{{ 7 * 7 }}" in page
    assert "\n</span>" in page  # a line break of the text stays in it


def test_the_shade_follows_the_score_and_stops_at_the_ends():
    part = TokenMap("t", [], "deviations")
    assert [part.shade(score) for score in (-9.0, -2.0, -1.0, -0.1, 0.0, 0.1, 0.5, 1.0, 2.0, 99.0)] == [
        -4,
        -4,
        -2,
        0,
        0,
        0,
        1,
        2,
        4,
        4,
    ]
    assert part.shade(None) == part.shade(float("nan")) == 0
    assert TokenMap("t", [], "deviations", full=4.0).shade(2.0) == 2
    assert [label for _, label in part.legend] == ["≤ −2", "−1.5", "−1", "−0.5", "0", "0.5", "1", "1.5", "≥ 2"]


def test_every_shade_has_a_colour_and_scores_are_attributes_not_styles(tmp_path):
    page = page_of(tmp_path, TokenText("a", [("up", 1.98), ("down", -0.6), ("none", None)]))
    body = page[page.index("<body>") :]
    assert 'data-s="4" title="1.98">up<' in body
    assert 'data-s="-1" title="-0.60">down<' in body
    assert 'data-s="0">none<' in body
    assert "style=" not in body
    for shade in (-4, -3, -2, -1, 1, 2, 3, 4):
        assert re.search(rf'\[data-s="{shade}"\] {{ background: rgb', page)
