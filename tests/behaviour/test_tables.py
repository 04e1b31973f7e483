import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from emscope.behaviour.judging import Judgement
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, read_responses, read_table, with_judgements, write_table
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
