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
