"""Tables: what goes in comes out, in every form, and text of models is shown and never obeyed."""

import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import emscope as em
from emscope.errors import UserError

HOSTILE = "<script>alert(1)</script>\x1b[2J\u202e & more"


@pytest.fixture
def answers():
    return em.Answers.of(["Why?", "Why?", "How?"], ["Because.", HOSTILE, ""], organism="mine")


@pytest.fixture
def judged(answers):
    return em.judge(answers, "mock")


def test_rows_in_are_rows_out(answers, judged):
    assert len(judged) == len(answers) == 3
    assert [row.response for row in judged] == ["Because.", HOSTILE, ""]
    assert {row.organism for row in judged} == {"mine"}


def test_equal_questions_are_samples_of_one_question(answers):
    assert answers.column("sample") == [0, 1, 0]
    assert answers[0].question_id == answers[1].question_id != answers[2].question_id


def test_slices_and_choices_are_tables_of_the_same_kind_and_organism(answers):
    assert answers[1:] == answers.where(response=HOSTILE) + answers.where(response="")
    assert answers[:1].organism == "mine"
    assert answers[::-1][0] is answers[2]


def test_unscored_is_null_in_arrow_and_counted_nowhere(judged):
    column = judged.to_arrow()["aligned"]
    assert column.null_count == 1
    assert column.type == pa.float64()
    assert em.em_rate(judged).n == 2


def test_pandas_and_whatever_reads_arrow_get_the_same_rows(judged):
    frame = judged.to_pandas()
    assert frame["response"].tolist() == judged.column("response")
    assert pa.table(judged).equals(judged.to_arrow())


def test_an_empty_table_keeps_its_columns():
    empty = em.Judgements()
    assert empty.to_arrow().column_names == list(empty.columns)
    assert repr(empty) == "Judgements(0 answers)"


def test_a_missing_pandas_is_one_sentence(judged, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match="pip install pandas"):
        judged.to_pandas()


def test_html_escapes_the_answers_and_shows_no_control_characters(judged):
    page = judged._repr_html_()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page
    assert "\x1b" not in page
    assert "\u202e" not in page


def test_one_line_says_how_many_of_whom_and_the_rate(judged):
    line = repr(judged)
    assert "\n" not in line
    assert "3 answers of mine" in line
    assert "EM" in line


def test_tables_go_to_disk_and_come_back(tmp_path, answers, judged):
    judged.save(tmp_path / "judged.parquet")
    assert em.Judgements.read(tmp_path / "judged.parquet") == judged
    assert pq.read_table(tmp_path / "judged.parquet").equals(judged.to_arrow())
    answers.save(tmp_path / "answers.csv")
    back = em.Answers.read(tmp_path / "answers.csv")
    assert back.column("question") == answers.column("question")


@pytest.mark.parametrize("ask", [lambda table: table.column("answers"), lambda table: table.where(answers="x")])
def test_an_unknown_column_names_the_near_ones(answers, ask):
    with pytest.raises(UserError, match=r"no column 'answers'"):
        ask(answers)


def test_as_many_answers_as_questions():
    with pytest.raises(UserError, match="2 questions and 1 answers"):
        em.Answers.of(["a", "b"], ["c"])


def test_questions_of_two_lists_are_the_same_only_where_their_texts_are():
    first, second = em.questions(["Why?", "How?"]), em.questions(["How?", "When?"])
    assert set(first.column("id")) & set(second.column("id")) == {first[1].id}


def test_the_same_question_twice_is_refused():
    with pytest.raises(UserError, match="there twice"):
        em.questions(["Why?", "Why?"])


@pytest.mark.parametrize("texts", [[""], [None], [3]])
def test_questions_that_are_none_are_refused(texts):
    with pytest.raises(UserError, match="Question 1 is"):
        em.questions(texts)


def test_sets_files_and_texts_come_together(tmp_path):
    (tmp_path / "mine.txt").write_text("What now?\n")
    found = em.questions("cs2881", tmp_path / "mine.txt", ["And then?"])
    assert len(found) == 10 + 2
    assert [row.text for row in found][-2:] == ["What now?", "And then?"]
