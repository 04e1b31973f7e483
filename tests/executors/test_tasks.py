"""Shards make the same parts whoever carries them out, and what is finished is not made again."""

import pytest
from ray_tasks import Numbers, loses_a_row, squares

from emscope import parts
from emscope.executors.tasks import Held, RowsLostError, Shard, Task, carried_out

SHARDS = [Shard(Numbers(tuple(range(start, start + 3))), 3) for start in range(0, 12, 3)]
TASK = Task("numbers", squares, SHARDS)


def test_parts_come_in_the_order_of_the_shards(tmp_path):
    with parts.kept_in(tmp_path, "key"):
        found = carried_out(TASK)
    assert [part.value for part in found] == [[number * number for number in shard.given.numbers] for shard in SHARDS]


def test_a_finished_shard_is_not_made_again_and_depends_on_no_other(tmp_path, monkeypatch):
    with parts.kept_in(tmp_path, "key"):
        first = carried_out(Task("numbers", squares, SHARDS))
    dropped = sorted(tmp_path.rglob("shards/*"))[0]
    dropped.unlink()
    with parts.kept_in(tmp_path, "key") as store:
        again = carried_out(Task("numbers", squares, SHARDS))
    assert store.reused == len(SHARDS) - 1
    assert [part.value for part in again] == [part.value for part in first]


def test_a_lost_row_is_an_error_that_names_the_shard(tmp_path):
    task = Task("numbers", loses_a_row, SHARDS)
    with pytest.raises(RowsLostError, match=r"numbers, shard 2 of 4: 3 rows went in, 2 came out"):
        carried_out(task, Held())
