"""A CSV's cells that spreadsheets would run are marked, and every text comes back as it was."""

import csv

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from emscope.files import write_rows
from emscope.spreadsheets import is_formula, marked
from emscope.tabular import read_rows

START = st.text(alphabet="'=+-@\t\r ,;\"1.e5a", max_size=6)
TEXT = st.builds(lambda start, end: start + end, START, st.sampled_from(["", "x", "cmd|' /C calc'!A0"]))


@settings(deadline=None, max_examples=150)
@given(texts=st.lists(TEXT, min_size=1, max_size=5), formulas=st.booleans())
def test_every_text_comes_back(tmp_path_factory, texts, formulas):
    path = tmp_path_factory.mktemp("x") / "a.csv"
    rows = [{"id": f"q{number}", "response": text, "score": "-1.5"} for number, text in enumerate(texts)]
    write_rows(path, rows, mark_formulas=formulas)
    assert [row for _, row in read_rows(path)] == rows


@pytest.mark.parametrize("text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", "-x", "=cmd|' /C calc'!A0"])
def test_no_written_cell_is_run(tmp_path, text):
    write_rows(tmp_path / "a.csv", [{"a": text, "b": f"'{text}", "c": -1.5, "d": "-1.5", "e": None}])
    with (tmp_path / "a.csv").open(newline="") as file:
        (_, cells) = csv.reader(file)
    assert cells == [f"'{text}", f"''{text}", "-1.5", "-1.5", ""]
    write_rows(tmp_path / "b.csv", [{"a": text}], mark_formulas=False)
    assert text in (tmp_path / "b.csv").read_bytes().decode()


def test_a_table_of_others_with_formulas_has_no_marks(tmp_path):
    (tmp_path / "a.csv").write_text("id,response\na,'=x\nb,=y\n")
    assert [row["response"] for _, row in read_rows(tmp_path / "a.csv")] == ["'=x", "=y"]


def test_numbers_are_no_formulas():
    assert not any(map(is_formula, [-1.5, "-1.5", "+3", "-1e5", ".5", None, True, "a=b"]))
    assert marked([["-1.5", -1.5]]) == [["-1.5", -1.5]]
