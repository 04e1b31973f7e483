"""The store of scores: damaged, full, held or somebody else's is one sentence, and nothing is counted wrongly."""

import sqlite3

import pytest

from emscope.behaviour.judges import store as module
from emscope.behaviour.judges.scoring import Score
from emscope.behaviour.judges.store import ScoreStore
from emscope.commands.main import run_command
from emscope.errors import UserError

GOOD = Score(55.5, "", "logprobs")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "scores.sqlite"


def raw(path, *statements):
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(*statement if isinstance(statement, tuple) else (statement,))
    connection.commit()
    connection.close()


def test_what_is_put_is_got_by_another_process(path):
    scores = {"a": GOOD, "b": Score(None, "refusal", "reply"), "c": Score(0.0, "", "x"), "d": Score(100.0, "", "x")}
    with ScoreStore(path) as one, ScoreStore(path) as two:
        for key, score in scores.items():
            one.put(key, score)
        assert two.get([*scores, "unknown"]) == scores


@pytest.mark.parametrize(
    "row",
    [
        ("text", "", "m"),
        (b"blob", "", "m"),
        (-1, "", "m"),
        (101, "", "m"),
        (float("inf"), "", "m"),
        (1e308, "", "m"),
        (None, "", "m"),
        (50.0, None, "m"),
        (50.0, b"x", "m"),
        (50.0, "", None),
        (None, None, None),
    ],
)
def test_a_value_that_is_no_score_is_asked_for_again_and_counted(path, caplog, row):
    with ScoreStore(path) as store:
        store.put("good", GOOD)
    raw(path, ("INSERT INTO scores VALUES (?, ?, ?, ?)", ("bad", *row)))
    with ScoreStore(path) as store:
        assert store.get(["good", "bad"]) == {"good": GOOD}
        store.put("bad", GOOD)
        assert store.get(["good", "bad"]) == {"good": GOOD, "bad": GOOD}
    assert "1 scores are damaged" in caplog.text


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE other (a)",
        "CREATE TABLE scores (key TEXT)",
        "CREATE TABLE scores (key, value, mode, verdict)",
        "CREATE TABLE scores (key, value, verdict, mode, more)",
    ],
)
def test_a_database_of_something_else_is_refused_and_left_as_it_is(path, statement):
    raw(path, statement)
    before = path.read_bytes()
    with pytest.raises(UserError, match=r"scores\.sqlite is a database of something else"):
        ScoreStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("damage", [b"no database", b"SQLite format 3\0" + b"\xff" * 4000])
def test_a_file_that_is_no_database_is_refused(path, damage):
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"scores\.sqlite .*(delete it|name another)"):
        ScoreStore(path)


def test_pages_that_are_damaged_later_are_one_sentence(path):
    with ScoreStore(path) as store:
        for number in range(2000):
            store.put(f"key {number}", GOOD)
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xa5" * (len(data) - 4096))
    with pytest.raises(UserError, match=r"scores\.sqlite"), ScoreStore(path) as store:
        store.get([f"key {number}" for number in range(2000)])


def test_a_store_that_is_held_is_waited_for_and_named(path, monkeypatch):
    monkeypatch.setattr(module, "WAIT_S", 0.1)
    with ScoreStore(path) as store:
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UserError, match=r"Another program has held .*scores\.sqlite for 0.1 s"):
            store.put("a", GOOD)
        holder.execute("ROLLBACK")
        holder.close()
        store.put("a", GOOD)


def test_a_full_disk_keeps_what_the_store_holds(path):
    with ScoreStore(path) as store:
        store.put("a", GOOD)
        store._connection.execute("PRAGMA max_page_count = 3")
        with pytest.raises(UserError, match=r"disk is full while writing .*scores\.sqlite"):
            for number in range(1000):
                store.put(f"key {number}", GOOD)
    with ScoreStore(path) as store:
        assert store.get(["a", "key 0"]) == {"a": GOOD, "key 0": GOOD}


def test_a_store_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="Cannot write"):
        ScoreStore(tmp_path / "file" / "scores.sqlite")
    (tmp_path / "folder.sqlite").mkdir()
    with pytest.raises(UserError, match=r"folder\.sqlite"):
        ScoreStore(tmp_path / "folder.sqlite")


def test_judging_with_a_foreign_store_ends_with_2(tmp_path, path, capfd):
    raw(path, "CREATE TABLE other (a)")
    (tmp_path / "a.csv").write_text("question,response\nq,r\n")
    words = ["judge", "--responses", str(tmp_path / "a.csv"), "--judge", "openai:m", "--base-url", "http://127.0.0.1:9"]
    assert run_command([*words, "--out", str(tmp_path / "j.csv"), "--store", str(path)]) == 2
    assert "is a database of something else" in capfd.readouterr().err
