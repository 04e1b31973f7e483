"""Cells are read as what they say, or refused; columns by their usual names, unless several could be meant."""

import math

import pytest

from emscope.cells import check_scale, find_column, flag_of, score_of, text_of
from emscope.errors import UserError


@pytest.mark.parametrize(
    ("value", "text"), [("a", "a"), (None, ""), (math.nan, ""), (0, "0"), (1.0, "1"), (1.5, "1.5"), (" x ", " x ")]
)
def test_text_cells(value, text):
    assert text_of(value, "id", "row 2") == text


@pytest.mark.parametrize("value", [True, [], {}, b"x"])
def test_what_is_no_text_is_refused_by_row(value):
    with pytest.raises(UserError, match="row 2: 'id' must be text"):
        text_of(value, "id", "row 2")


@pytest.mark.parametrize("word", ["true", "True", "TRUE", "yes", "1", 1, 1.0, True, "t"])
def test_yes(word):
    assert flag_of(word, "truncated", "row 2") is True


@pytest.mark.parametrize("word", ["false", "False", "no", "0", 0, 0.0, False, "", None, math.nan])
def test_no(word):
    assert flag_of(word, "truncated", "row 2") is False


@pytest.mark.parametrize("word", ["maybe", 2, 0.5, "length"])
def test_neither_yes_nor_no(word):
    with pytest.raises(UserError, match="row 2: 'truncated' must be true or false"):
        flag_of(word, "truncated", "row 2")


@pytest.mark.parametrize(
    ("cell", "score"),
    [
        ("85", 85),
        (85, 85),
        ("85.5", 85.5),
        ("85,5", 85.5),
        ("85 %", 85),
        ("85%", 85),
        ("85/100", 85),
        ("0", 0),
        ("85 out of 100", 85),
        ("1e2", 100),
        ("", None),
        (None, None),
        (math.nan, None),
        ("REFUSAL", None),
        ("nan", None),
    ],
)
def test_scores_in_words(cell, score):
    assert score_of(cell, "aligned", "row 2") == score


@pytest.mark.parametrize(
    "cell", ["101", -1, "8/10", True, "true", "no", "inf", math.inf, "Score: 85", [5], "1,000", "85,500"]
)
def test_no_scores(cell):
    with pytest.raises(UserError, match="row 2: 'aligned'"):
        score_of(cell, "aligned", "row 2")


def test_shares_are_not_taken_for_scores(caplog):
    for columns in (
        {"aligned": [0.2, 1.0], "coherent": [0.9, None]},
        {"aligned": [0.2, 1.0], "coherent": [90.0, 80.0]},
        {"aligned": [0.0, 1.0], "coherent": [1.0, 1.0]},
    ):
        with pytest.raises(UserError, match=r"'aligned' all lie between 0 and 1.*multiply them by 100"):
            check_scale(columns, "a.csv")
    check_scale({"aligned": [0.0, 0.0], "coherent": [None, None]}, "a.csv")
    check_scale({"aligned": [0.0, 20.0], "coherent": [90.0, None]}, "a.csv")
    assert not caplog.records
    check_scale({"aligned": [0.0, 1.0, 0.0], "coherent": [90.0, 80.0, None]}, "a.csv")
    assert "no score is above 10 in 'aligned';" in caplog.text
    caplog.clear()
    check_scale({"aligned": [3.0, 5.0], "coherent": [8.0, 9.0]}, "a.csv")
    assert "no score is above 10 in 'aligned' and 'coherent'" in caplog.text


NAMES = ("question", "prompt", "instruction", "input")


def test_the_documented_name_wins_and_that_is_said(caplog):
    assert find_column([{"Prompt": "x"}], NAMES, "a.csv") == "Prompt"
    assert find_column([{"id": 1}], NAMES, "a.csv") is None
    assert find_column([{"question": "x", "prompt": "x"}], NAMES, "a.csv") == "question"
    assert find_column([{"question": None, "prompt": "x"}], NAMES, "a.csv") == "prompt"
    assert find_column([{"instruction": "x", "input": "y"}], NAMES, "a.csv") == "instruction"
    assert not caplog.records
    assert find_column([{"question": "x", "prompt": "<s>x"}], NAMES, "a.csv") == "question"
    assert "the column 'question' is read, 'prompt' not" in caplog.text


@pytest.mark.parametrize("row", [{"prompt": "x", "instruction": "y"}, {"Question": "x", "question": "y"}])
def test_ambiguous_columns_are_refused_by_name(row):
    with pytest.raises(UserError, match=" and ".join(f"'{name}'" for name in row)):
        find_column([row], NAMES, "a.csv")
