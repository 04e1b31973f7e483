from emscope.experiments.transfer.page import matrix
from emscope.report.figures import as_html, distributions, rates, scatter
from emscope.statistics import Estimate
from emscope.statistics.estimates import NOTHING

HOSTILE = '<a href="https://example.org">set</a>'
SHOWN = '&lt;a href="https://example.org"&gt;set&lt;/a&gt;'


def test_a_share_that_could_not_be_computed_is_a_gap():
    whole, alone = Estimate(0.5, 0.4, 0.8, 9), Estimate(0.5, float("nan"), float("nan"), 9)
    (bars,) = rates({"base": {"a": NOTHING, "b": whole, "c": alone}}, "EM rate").data
    assert list(bars.y) == [None, 50, 50]
    assert [None if arm is None else round(arm) for arm in bars.error_y.array] == [None, 30, None]
    assert [None if arm is None else round(arm) for arm in bars.error_y.arrayminus] == [None, 10, None]


def test_names_of_users_and_modules_are_shown_as_they_are():
    share = Estimate(0.5, 0.4, 0.8, 9)
    plots = [
        rates({"base": {HOSTILE: share}}, ""),
        distributions({"base": {HOSTILE: [1.0]}}, "", threshold=False),
        matrix({HOSTILE: {HOSTILE: share}}, [HOSTILE], ("", "")),
    ]
    for plot in plots:
        (shown,) = plot.data
        assert SHOWN in [*(shown.x or ()), *(shown.y or ())]
        assert r"\u003ca href" not in as_html(plot)
    assert scatter([(1.0, 2.0)], (HOSTILE, HOSTILE), 30).layout.xaxis.title.text == SHOWN
