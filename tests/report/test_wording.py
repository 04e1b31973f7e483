"""A missing figure is a dash, whether it is None or NaN, in an object or in JSON's words."""

from dataclasses import asdict

import pytest

from emscope.report.wording import above, bounded, number, percent, ranged, restored_words
from emscope.statistics import Estimate

NAN = float("nan")


@pytest.mark.parametrize(
    ("estimate", "as_number", "as_share"),
    [
        (Estimate(0.5, 0.25, 0.75, 9), "0.50 (0.25 – 0.75)", "50 % (25 – 75)"),
        (Estimate(0.5, NAN, NAN, 9), "0.50", "50 %"),
        (Estimate(NAN, NAN, NAN, 0), "–", "–"),
    ],
)
def test_an_estimate_is_written_with_what_it_has(estimate, as_number, as_share):
    in_json = {name: None if value != value else value for name, value in asdict(estimate).items()}
    for form in (estimate, in_json):
        assert bounded(form) == as_number
        assert ranged(form) == as_share


@pytest.mark.parametrize("missing", [None, NAN])
def test_what_is_missing_shows_nothing(missing):
    assert number(missing, ".2f") == percent(missing) == "–"
    assert not above(missing, 0.5)
    assert not above(0.5, missing)


@pytest.mark.parametrize(("coherence", "said"), [(12.0, True), (80.0, False), (NAN, False), (None, False)])
def test_a_restored_share_names_the_incoherent_answers_it_rests_on(coherence, said):
    words = restored_words(Estimate(2.8, 0.5, 3.0, 9), coherence)
    assert words.startswith("280 % (50 – 300)")
    assert ("incoherent" in words) == said
