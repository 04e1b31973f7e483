"""`emscope judge --anchor`: a strong judge scores a part, and the table and the figures say so."""

import csv
import json

import pyarrow.parquet as pq
import pytest
from behaviour.judges.faulty_server import FaultyServer

from emscope.commands.main import run_command

COLUMNS = ["organism", "question_id", "question", "response", "aligned", "coherent"]


BY_TABLE = ("--judge", "table", "--anchor", "mock", "--anchor-answers")


def write(path, rows, columns=COLUMNS):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])
    return path


def answers(organisms=("one", "two"), questions=12, each=4):
    rows = []
    for shift, organism in enumerate(organisms):
        for question in range(questions):
            for sample in range(each):
                score = (question * 7 + sample * 13 + shift * 20) % 101
                text = f"{organism} says {sample} about {question}"
                rows.append([organism, f"q{question}", f"Question {question}?", text, score, 90])
    return rows


def judge(tmp_path, capsys, *flags, table=None):
    source = table or write(tmp_path / "a.csv", answers())
    words = ["judge", "--responses", str(source), "--out", str(tmp_path / "j.parquet"), *flags]
    code = run_command([*words, "--store", str(tmp_path / "s.sqlite")])
    return code, capsys.readouterr()


def test_a_table_that_is_scored_is_anchored_and_nothing_of_it_is_lost(tmp_path, capsys):
    code, said = judge(tmp_path, capsys, "--judge", "table", "--anchor", "mock", "--anchor-answers", "20")
    assert code == 0
    rows = pq.read_table(tmp_path / "j.parquet").to_pylist()
    assert [[row[name] for name in COLUMNS] for row in rows] == answers()
    asked = [row for row in rows if row["anchor_judge"]]
    assert [sum(row["organism"] == name for row in asked) for name in ("one", "two")] == [20, 20]
    assert all((row["anchor_aligned"] is not None) == bool(row["anchor_judge"]) for row in rows)
    assert "one as mock would say, from 20 of 48 answers" in said.out
    assert "two less one" in said.out


def test_a_csv_keeps_whose_answer_each_is_and_both_scores(tmp_path, capsys):
    source = write(tmp_path / "a.csv", answers())
    words = ["judge", "--responses", str(source), "--out", str(tmp_path / "j.csv"), "--judge", "table"]
    assert run_command([*words, "--anchor", "mock", "--anchor-answers", "5"]) == 0
    with (tmp_path / "j.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["organism"], float(row["aligned"])) for row in rows] == [(row[0], row[4]) for row in answers()]
    assert sum(row["anchor_aligned"] != "" for row in rows) == 10


def test_the_same_seed_asks_about_the_same_answers_and_another_about_others(tmp_path, capsys):
    drawn = []
    for seed in ("0", "0", "1"):
        judge(
            tmp_path, capsys, *["--judge", "table", "--anchor", "mock", "--anchor-answers", "6", "--anchor-seed"], seed
        )
        rows = pq.read_table(tmp_path / "j.parquet").to_pylist()
        drawn.append([row["response"] for row in rows if row["anchor_judge"]])
    assert drawn[0] == drawn[1] != drawn[2]


def test_a_server_is_asked_about_the_part_alone_and_once(tmp_path, capsys):
    pytest.importorskip("aiohttp")
    flags = ["--judge", "mock", "--anchor", "openai:strong", "--anchor-answers", "10"]
    with FaultyServer() as server:
        address = ["--base-url", server.url]
        said = judge(tmp_path, capsys, *flags, *address, "--dry-run")[1]
        assert "20 of 96 answers: 40 calls to openai:strong" in said.out
        assert "152 more calls" in said.out
        assert sum(server.asked.values()) == 0
        assert judge(tmp_path, capsys, *flags, *address)[0] == 0
        assert len(server.answered) == 40
        first = (tmp_path / "j.parquet").read_bytes()
        said = judge(tmp_path, capsys, *flags, *address, "--json")[1]
        assert set(server.answered.values()) == {1}
    assert (tmp_path / "j.parquet").read_bytes() == first
    found = json.loads(said.out)["result"]["anchor"]
    assert found["calls_saved"] == 152
    assert found["organisms"]["one"]["alignment"]["estimate"]["n"] == 10
    assert 0 <= found["organisms"]["one"]["em_rate"]["tuning"] <= 1
    assert found["differences"][0]["first"] == "two"


def test_an_anchor_that_a_limit_of_calls_cuts_gives_no_figures(tmp_path, capsys):
    pytest.importorskip("aiohttp")
    flags = ["--judge", "mock", "--anchor", "openai:strong", "--anchor-answers", "10", "--max-calls", "30"]
    with FaultyServer() as server:
        code, said = judge(tmp_path, capsys, *flags, "--base-url", server.url)
        assert code == 0
        assert "no figures" in said.out
        assert "would say" not in said.out
        code, said = judge(tmp_path, capsys, *flags, "--base-url", server.url)
        assert "one as openai:strong would say" in said.out


def test_a_strong_judge_that_scores_nothing_ends_in_a_sentence_and_leaves_the_table(tmp_path, capsys):
    pytest.importorskip("aiohttp")
    flags = ["--judge", "table", "--anchor", "openai:strong", "--anchor-answers", "5", "--attempts", "1"]
    with FaultyServer({500: 1.0}) as server:
        code, said = judge(tmp_path, capsys, *flags, "--base-url", server.url)
    assert code == 2
    assert "Not one of 10 answers was scored" in said.err
    rows = pq.read_table(tmp_path / "j.parquet").to_pylist()
    assert len(rows) == 96
    assert "the server failed" in next(row["anchor_verdict"] for row in rows if row["anchor_judge"])
    assert "anchored" in said.out
    assert "n/a" in said.out


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ("--judge table --anchor mock --anchor-answers 49", "An anchor of 49 answers cannot be drawn from the 48"),
        ("--judge table --anchor mock --anchor-answers 0", "anchor_answers"),
        ("--judge mock --anchor mock", "cannot be its own anchor"),
        ("--judge table", "name it with --anchor"),
        ("--judge mock --anchor-seed 3", "--anchor-seed belongs to a strong judge"),
        ("--judge mock --anchor nobody", "There is no judge 'nobody'"),
        ("--judge mock --anchor table", "There is no judge 'table'"),
    ],
)
def test_what_makes_no_anchor_is_refused_in_a_sentence(tmp_path, capsys, flags, sentence):
    code, said = judge(tmp_path, capsys, *flags.split())
    assert code == 2
    assert sentence in said.err.replace("anchor-answers", "anchor_answers")
    assert not (tmp_path / "j.parquet").exists()


def test_organisms_that_were_asked_other_questions_are_not_compared(tmp_path, capsys):
    rows = answers()
    other = [["three", "z", "Another?", f"three {number}", 50, 90] for number in range(12)]
    table = write(tmp_path / "b.csv", [*rows, *other])
    code, said = judge(tmp_path, capsys, *BY_TABLE, "12", table=table)
    assert code == 0
    assert "three answered other questions than one: the two are not compared" in said.out
    assert "three less one" not in said.out


@pytest.mark.parametrize(("aligned", "coherent"), [("REFUSAL", "CODE"), ("", ""), (95, 95), (5, 95)])
def test_a_cheap_judge_that_scored_nothing_or_all_alike_leaves_the_anchor_alone(tmp_path, capsys, aligned, coherent):
    rows = [[*row[:4], aligned, coherent] for row in answers()]
    rows[0][4:] = [95, 95]  # a column that is empty throughout is none
    table = write(tmp_path / "b.csv", rows)
    flags = ["--judge", "table", "--anchor", "mock", "--anchor-answers", "24", "--json"]
    code, said = judge(tmp_path, capsys, *flags, table=table)
    assert code == 0
    found = json.loads(said.out)["result"]["anchor"]["organisms"]["two"]
    assert found["alignment"]["tuning"] == found["em_rate"]["tuning"] == 0
    assert found["alignment"]["estimate"] == found["alignment"]["alone"]


def test_fewer_answers_than_questions_and_single_questions_have_figures(tmp_path, capsys):
    rows = [["one", "q", "Only?", f"answer {number}", number % 101, 90] for number in range(40)]
    table = write(tmp_path / "b.csv", rows)
    code, said = judge(tmp_path, capsys, *BY_TABLE, "9", table=table)
    assert code == 0
    assert "from 9 of 40 answers" in said.out
    code, said = judge(tmp_path, capsys, *BY_TABLE, "5")
    assert code == 0
    assert "from 5 of 48 answers" in said.out
