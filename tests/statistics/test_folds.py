"""Folds keep rows of one question together, and deal questions out evenly."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emscope.statistics.folds import group_codes, question_folds, shuffled_folds

GROUPS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40)


@given(GROUPS, st.integers(2, 6), st.integers(0, 9))
def test_a_group_has_one_fold_and_folds_hold_as_many_groups(groups, folds, seed):
    for fold in (question_folds(groups, folds), shuffled_folds(groups, folds, seed)):
        by_group = {}
        for group, number in zip(groups, fold.tolist(), strict=True):
            assert by_group.setdefault(group, number) == number
        sizes = np.bincount(list(by_group.values()))
        assert sizes.max() - sizes.min() <= 1 or len(by_group) < folds
        assert fold.max() < folds


@given(GROUPS)
def test_codes_number_groups_in_the_order_they_come(groups):
    codes = group_codes(groups)
    assert [list(dict.fromkeys(groups))[code] for code in codes] == groups


@pytest.mark.parametrize("folds", [2, 5])
def test_folds_do_not_depend_on_how_often_a_question_was_asked(folds):
    once, twice = ["a", "b", "c", "d"], ["a", "a", "b", "c", "c", "c", "d"]
    numbers = dict(zip(once, question_folds(once, folds).tolist(), strict=True))
    assert question_folds(twice, folds).tolist() == [numbers[group] for group in twice]
