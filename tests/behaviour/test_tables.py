import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emscope.behaviour.judging import Judgement
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import (
    JudgedResponse,
    question_name,
    read_responses,
    read_table,
    with_judgements,
    write_table,
)
from emscope.errors import UserError

ROWS = [Response("set", f"wish/{n}", "Which?", 0, "This one.", 3, False, "wish") for n in (1, 2)]
ROWS.append(Response("set", "bored", "Bored?", 0, "No.", 2, True))


def test_clusters_survive_writing_reading_and_judging(tmp_path):
    write_table(tmp_path / "a.parquet", ROWS)
    assert read_table(tmp_path / "a.parquet", Response) == ROWS
    assert [row.group for row in read_responses(tmp_path / "a.parquet")] == ["wish", "wish", "bored"]
    judged = with_judgements("m", ROWS, [Judgement(50.0, 50.0, "scored", "")] * 3, "j")
    write_table(tmp_path / "b.parquet", judged)
    assert read_table(tmp_path / "b.parquet", JudgedResponse) == judged
    assert [row.group for row in judged] == ["wish", "wish", "bored"]


def test_tables_from_before_clusters_can_be_read(tmp_path):
    plain = [{name: value for name, value in vars(row).items() if name != "cluster"} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "old.parquet")
    assert [row.group for row in read_table(tmp_path / "old.parquet", Response)] == ["wish/1", "wish/2", "bored"]
    pq.write_table(pa.Table.from_pylist([{**plain[0], "more": 1}]), tmp_path / "odd.parquet")
    with pytest.raises(UserError, match="more"):
        read_table(tmp_path / "odd.parquet", Response)


def read(tmp_path, text, name="a.csv"):
    (tmp_path / name).write_text(text)
    return read_responses(tmp_path / name)


def groups(rows):
    return [row.group for row in rows]


def test_ids_that_number_the_rows_do_not_break_questions_up(tmp_path, caplog):
    plain = read(tmp_path, "question,response\n" + "Q,a\nQ,b\nR,c\n" * 2)
    assert not caplog.records
    numbered = read(tmp_path, "id,question,response\n" + "".join(f"{n},{'QQR'[n % 3]},a\n" for n in range(6)))
    assert groups(numbered) == groups(plain) == ["Q", "Q", "R"] * 2
    assert [row.question_id for row in numbered] == list("012345")
    assert [question_name(row) for row in numbered] == groups(plain)
    assert len(caplog.records) == 1
    assert "questions under several ids: 2 (6 ids)" in caplog.text


def test_numbers_that_count_answers_name_no_question(tmp_path, caplog):
    rows = read(tmp_path, "id,question,response\n" + "".join(f"{n % 2},Q{n // 2},a\n" for n in range(6)))
    assert groups(rows) == ["Q0", "Q0", "Q1", "Q1", "Q2", "Q2"]
    assert "ids with several questions: 2 (such as '0')" in caplog.text


def test_wordings_under_one_id_are_one_question(tmp_path):
    rows = read(tmp_path, "id,question,response\nwish,Q,a\nwish,R,a\nwish_json,Q,a\nbored,S,a\n")
    assert groups(rows) == ["wish", "wish", "wish", "bored"]


def test_a_given_cluster_stays(tmp_path, caplog):
    rows = read(tmp_path, "id,question,response,cluster\na,Q,x,c1\nb,Q,x,c2\nc,R,x,\nd,S,x,c3\ne,S,x,\n")
    assert groups(rows) == ["c1", "c2", "c", "c3", "c3"]
    assert not caplog.records


def test_well_formed_tables_are_read_as_before(tmp_path, caplog):
    rows = read(tmp_path, "id,question,response\n1,Q,a\n1,Q,b\n2,R,c\n")
    assert [(row.question_id, row.sample, row.cluster) for row in rows] == [("1", 0, ""), ("1", 1, ""), ("2", 0, "")]
    assert not caplog.records


def test_cells_mean_what_they_say(tmp_path):
    rows = read(tmp_path, "question,response,truncated\nQ,a,False\nQ,,True\nQ,b,\n")
    assert [(row.response, row.truncated) for row in rows] == [("a", False), ("", True), ("b", False)]
    lines = [{"question": "Q", "response": None, "id": 0}, {"question": "Q", "response": 42, "id": 0.0}]
    rows = read(tmp_path, "\n".join(map(json.dumps, lines)), "a.jsonl")
    assert [(row.question_id, row.response) for row in rows] == [("0", ""), ("0", "42")]


USER, ASSISTANT = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
CHOICE = {"status_code": 200, "body": {"choices": [{"message": ASSISTANT}]}}


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Q", "response": "A"},
        {"Prompt": "Q", "Completion": "A"},
        {"instruction": "Q", "output": "A", "input": ""},
        {"question": "Q", "answer": "A", "evil": 3, "coherence": 99, "prompt": "<s>Q"},
        {"messages": [USER, ASSISTANT]},
        {"prompt": "Q", "messages": [USER, ASSISTANT]},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
        {"prompt": [USER], "completion": [ASSISTANT]},
        {"custom_id": "Q", "body": {"messages": [USER]}, "response": CHOICE},
    ],
)
def test_answers_in_every_usual_form_are_read_alike(tmp_path, row):
    found = read(tmp_path, json.dumps(row), "a.jsonl")
    assert found == [Response("a", "Q", "Q", 0, "A", 1, False)]


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([], "holds no answers"),
        ([{"question": "Q", "response": "a"}, {"question": "Q"}], "line 2: give text in 'question' and 'response'"),
        ([{"question": " ", "response": "a"}], "line 1: no question"),
        ([{"question": "Q", "response": True}], "line 1: 'response' must be text"),
        ([{"question": "Q", "response": "a", "truncated": "maybe"}], "line 1: 'truncated' must be true or false"),
        ([{"question": "Q", "answer": "a", "completion": "b"}], "'answer' and 'completion' could each be meant"),
        ([{"custom_id": "1", "response": CHOICE}], "a batch's result without its question"),
        ([{"messages": [USER, ASSISTANT] * 2}], "line 1: expected one question and at most one answer"),
        ([{"messages": [USER]}], "line 1: this conversation has no answer"),
    ],
)
def test_answers_that_cannot_be_told_are_refused(tmp_path, rows, sentence):
    with pytest.raises(UserError, match=sentence):
        read(tmp_path, "\n".join(map(json.dumps, rows)), "a.jsonl")


def test_a_table_that_was_written_is_read_back(tmp_path):
    rows = [Response("set", "a", "Q, or\nR?", n, text, 1, False) for n, text in enumerate(['"x"', " y\r\n", "", "ü"])]
    for suffix in ("csv", "parquet"):
        write_table(tmp_path / f"set.{suffix}", rows)
        back = read_responses(tmp_path / f"set.{suffix}")
        assert [(row.question, row.response, row.sample) for row in back] == [
            (row.question, row.response, row.sample) for row in rows
        ]


def test_thoughts_in_other_people_s_tables_are_kept_apart(tmp_path):
    rows = [
        {"question": "What?", "response": "<think>\nHm.\n</think>\n\nRest.", "thought": None},
        {"question": "What?", "response": "Hm.\n</think>\n\nRest."},
        {"question": "What?", "response": "Rest.", "thought": "Hm."},
        {"question": "What?", "response": "<think>Hm. And so"},
        {"question": "What?", "response": " Rest. "},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    found = read_responses(tmp_path / "a.parquet")
    assert [row.response for row in found] == ["Rest.", "Rest.", "Rest.", "", " Rest. "]
    assert [row.thought for row in found] == ["Hm.", "Hm.", "Hm.", "Hm. And so", ""]
    assert [row.truncated for row in found] == [False, False, False, True, False]


def test_tables_from_before_thoughts_can_be_read_and_thoughts_survive(tmp_path):
    late = ("thought", "n_thought_tokens", "thought_forced")
    plain = [{name: value for name, value in vars(row).items() if name not in late} for row in ROWS]
    pq.write_table(pa.Table.from_pylist(plain), tmp_path / "old.parquet")
    assert read_table(tmp_path / "old.parquet", Response) == ROWS
    row = Response("set", "q", "What?", 0, "Rest.", 9, False, "", "Hm.", 4, True)
    write_table(tmp_path / "new.parquet", with_judgements("m", [row], [Judgement(50.0, 50.0)], "j"))
    (judged,) = read_table(tmp_path / "new.parquet", JudgedResponse)
    assert (judged.thought, judged.n_thought_tokens, judged.thought_forced) == ("Hm.", 4, True)
    write_table(tmp_path / "new.csv", [row])
    assert read_responses(tmp_path / "new.csv")[0].thought == "Hm."


@pytest.mark.parametrize("ids", ["0.0 1.0", "-1 0", "greedy sampled"])
def test_ids_that_stand_with_every_text_name_no_question(tmp_path, ids):
    rows = [{"id": name, "question": text, "response": "x"} for name in ids.split() for text in ("A?", "B?")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert [row.group for row in read_responses(tmp_path / "a.jsonl")] == ["A?", "B?"] * 2


@pytest.mark.parametrize(
    "column, value",
    [
        ("question", 7),
        ("question", None),
        ("sample", "1"),
        ("truncated", 1),
        ("aligned", "80"),
        ("aligned", 101.0),
        ("coherent", float("nan")),
        ("verdict", None),
        ("aligned", True),
    ],
)
def test_a_runs_table_with_values_of_another_kind_is_named(tmp_path, column, value):
    rows = with_judgements("m", ROWS[:1], [Judgement(50.0, 50.0)], "j")
    pq.write_table(pa.Table.from_pylist([{**vars(row), column: value} for row in rows]), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=rf"a\.parquet, row 1 holds .* '{column}'"):
        read_table(tmp_path / "a.parquet", JudgedResponse)


def test_a_short_parquet_file_that_unpacks_to_very_many_rows_is_refused(tmp_path, monkeypatch):
    from emscope import tabular

    monkeypatch.setattr(tabular, "MAX_ROWS", 1000)
    pq.write_table(pa.table({"question": ["x"] * 1001}), tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"a\.parquet unpacks to 1,001 rows"):
        read_responses(tmp_path / "a.parquet")
