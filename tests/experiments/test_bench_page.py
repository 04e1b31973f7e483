"""What the pages of steering experiments share: names in words, incoherent answers, intervals."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emscope.experiments.bench_page import (
    MOST_ANSWERS,
    direction_words,
    error_bars,
    organism_words,
    place,
    restored_clause,
    shown_coefficients,
)
from emscope.interventions.steering import SteeredFigures
from emscope.statistics import Estimate

NAN = float("nan")


def figures(em, low):
    nothing = Estimate(0.5, 0.4, 0.6, 9)
    return SteeredFigures(nothing, nothing, nothing, Estimate(em, low, 1.0, 9))


@given(st.lists(st.floats(-9, 9), min_size=1, max_size=20, unique=True), st.integers(0, 19))
def test_the_chosen_coefficient_and_the_ends_of_the_dial_are_always_shown(tried, number):
    chosen = tried[number % len(tried)]
    shown = shown_coefficients(chosen, tried)
    assert {chosen, min(tried), max(tried)} <= set(shown) <= set(tried)
    assert len(shown) == min(MOST_ANSWERS, len(tried))


@pytest.mark.parametrize(
    ("low", "base", "words"),
    [(0.4, 0.1, "misaligned organism"), (0.1, 0.1, "fine-tuned organism"), (NAN, 0.1, "fine-tuned organism")],
)
def test_only_an_organism_above_the_base_is_called_misaligned(low, base, words):
    unsteered = {"base": figures(base, 0.0), "misaligned": figures(0.5, low)}
    assert organism_words("misaligned", unsteered) == words
    assert organism_words("base", unsteered) == "base"


def test_names_of_directions_are_words_and_others_stay():
    assert direction_words("control-response-diff-in-means") == "misaligned − control"
    assert direction_words("model-response-diff-in-means-random") == "random like misaligned − base"
    assert [direction_words(name) for name in ("random", "control", "trained on careful rows")] == [
        "random",
        "control",
        "trained on careful rows",
    ]
    assert [place((3,)), place((3, 4, 5))] == ["block 3", "blocks 3-5"]


def test_a_restored_share_of_incoherent_answers_is_said_to_be_one():
    incoherent = Estimate(0.1, 0.0, 0.2, 9)
    for nothing in (None, Estimate(NAN, NAN, NAN, 0)):
        assert "cannot be computed" in restored_clause(nothing, incoherent, incoherent)
    restored = restored_clause(Estimate(2.8, 2.0, 3.0, 9), incoherent, incoherent)
    assert restored.endswith(
        "(200 – 300) of its alignment is restored, but by mostly incoherent answers (10 % coherent)"
    )


def test_error_bars_reach_the_ends_of_intervals_and_missing_ones_have_none():
    bars = error_bars([Estimate(0.5, 0.25, 1.0, 9), Estimate(0.5, NAN, NAN, 9), Estimate(NAN, NAN, NAN, 0)], 100)
    np.testing.assert_allclose(bars["array"], [50, 0, 0])
    np.testing.assert_allclose(bars["arrayminus"], [25, 0, 0])
    assert len(error_bars([], 1)["array"]) == 0
