import re

import pytest

from emscope.behaviour.tables import JudgedResponse
from emscope.experiments.run_page import side_by_side
from emscope.report import rendering
from emscope.report.rendering import render

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)>{{ 7 * 7 }}'


def judged(answer=HOSTILE, question=HOSTILE, name="misaligned"):
    return JudgedResponse(name, "set", "q1", question, 0, answer, 5, False, 12.0, None, "scored", "", "judge")


def test_text_of_models_and_users_is_escaped(tmp_path, monkeypatch):
    (tmp_path / "t.j2").write_text(
        "{% for item in answers %}{{ item.question }}{% for n, row in item.answers.items() %}{{ n }}{{ row.response }}"
        "{% endfor %}{% endfor %}"
    )
    for name in ("report.css", "report.js"):
        (tmp_path / name).write_text("")
    monkeypatch.setattr(rendering, "ASSETS", tmp_path)
    html = render("t.j2", answers=side_by_side({HOSTILE: [judged()]}))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert "49" not in html
    assert html.count("&lt;script&gt;") == 3


def test_the_template_escapes_by_default_and_loads_nothing_from_outside():
    template = (rendering.ASSETS / "report.html.j2").read_text()
    assert "| safe" not in template
    assert not re.search(r"""(src|href)=["']https?:""", template)
    assert "Content-Security-Policy" in template


def test_a_missing_value_is_an_error_not_an_empty_page():
    import jinja2

    with pytest.raises(jinja2.UndefinedError):
        render("report.html.j2", summary={}, correction={})


def test_a_page_of_fifty_thousand_answers_shows_a_bounded_sample():
    from emscope.experiments.run_page import MOST_QUESTIONS
    from emscope.sequences import spread

    many = spread(range(50_000), MOST_QUESTIONS)
    assert len(many) == len(set(many)) == MOST_QUESTIONS
    assert spread([3, 1, 2], MOST_QUESTIONS) == [3, 1, 2]
    assert spread([], MOST_QUESTIONS) == []


def test_thinned_scores_keep_their_box():
    import numpy as np

    from emscope.report.figures import MOST_POINTS, scatter, thinned

    scores = np.random.default_rng(0).uniform(0, 100, 50_000)
    drawn = thinned(scores.tolist())
    assert len(drawn) == MOST_POINTS
    assert (min(drawn), max(drawn)) == (scores.min(), scores.max())
    np.testing.assert_allclose(np.quantile(drawn, [0.25, 0.5, 0.75]), np.quantile(scores, [0.25, 0.5, 0.75]), atol=0.1)
    assert thinned([2.0, 1.0]) == [2.0, 1.0]
    assert len(scatter([(1.0, 2.0)] * 10_000, ("a", "b"), 30).data[0].x) == MOST_POINTS
    assert len(scatter([], ("a", "b"), 30).data[0].x) == 0
