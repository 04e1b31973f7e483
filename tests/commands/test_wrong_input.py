"""What somebody types who got something wrong: one sentence, exit code 2, and nothing replaced or half-made."""

import json
import os
import re

import numpy as np
import pytest
from tiny import D_MODEL, N_BLOCKS

from emscope.commands import outputs
from emscope.commands.main import run_command
from emscope.residual.capture import Activations
from emscope.residual.store import ActivationStore
from emscope.tabular import read_rows


def write_store(path, seed=0, width=D_MODEL):
    rows = np.random.default_rng(seed).standard_normal((5, N_BLOCKS, width)).astype(np.float32)
    found = Activations({"last": rows}, tuple(range(N_BLOCKS)), "resid_post")
    ActivationStore(f"organism-{seed}", tuple("abcde"), found).save(path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path / "cache"))
    write_store(tmp_path / "p.safetensors", 1)
    write_store(tmp_path / "n.safetensors", 2)
    write_store(tmp_path / "narrow.safetensors", 2, D_MODEL // 2)
    rows = [{"question": f"Question {number}?", "response": f"Answer {number}."} for number in range(5)]
    (tmp_path / "five.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "other.csv").write_text("frage,antwort\na,b\n")
    (tmp_path / "q.txt").write_text("What now?\n")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run").mkdir()
    return tmp_path


def contents(folder):
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


DIRECTIONS = ["directions", "--positive", "p.safetensors", "--negative"]
JUDGE = ["judge", "--responses", "five.jsonl", "--out", "x.csv", "--judge"]
COMPARE = ["judge", "--compare", "a.csv", "b.csv"]
COLLECT = ["collect", "--model", "nowhere"]
TRAIN = ["train", "--data", "medical-careless", "--out", "o", "--model", "nowhere"]
GENERATE = ["generate", "--model", "nowhere", "--questions", "q.txt"]
SERVER = [*JUDGE, "openai:m", "--attempts", "1", "--base-url"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([*DIRECTIONS, "n.safetensors", "--out", "p.safetensors"], "p.safetensors is an input"),
        ([*DIRECTIONS, "./n.safetensors", "--out", "n.safetensors"], "n.safetensors is an input"),
        ([*DIRECTIONS, "p.safetensors", "--out", "d.safetensors"], "the same activations"),
        ([*DIRECTIONS, "narrow.safetensors", "--out", "d.safetensors"], r"4 blocks of width 32 and 4 .* width 16"),
        ([*DIRECTIONS, "n.safetensors", "--out", "d.safetensors", "--method", "probe", "--seed", "-1"], "A seed is"),
        ([*DIRECTIONS, "n.safetensors", "--out", "d.txt"], "use .safetensors"),
        (["judge", "--responses", "other.csv", "--out", "other.csv", "--judge", "mock"], "other.csv is an input"),
        (["judge", "--responses", "other.csv", "--out", "x.csv", "--judge", "mock"], "columns are frage, antwort"),
        (["judge", "--responses", "empty", "--out", "x.csv", "--judge", "mock"], "empty is a folder"),
        ([*JUDGE, "mock", "--plot", "a.html"], "--compare A B"),
        ([*JUDGE, "mock", "--max-calls", "-1"], "max_calls must be 0 or more"),
        ([*JUDGE, "mock", "--concurrency", "0"], "concurrency must be 1 or more"),
        ([*SERVER, "notaurl"], "'notaurl' is not the address"),
        ([*SERVER, "http://host:port/v1"], "is not the address"),
        ([*COMPARE, "--responses", "five.jsonl"], "--responses would be ignored"),
        ([*COMPARE, "--concurrency", "3"], "a server would be ignored"),
        ([*COMPARE, "--out", "zz.parquet"], "use .json"),
        ([*COMPARE, "--plot", "agr.txt"], "use .html"),
        (["run", "empty"], "empty has no config.yaml"),
        (["run", "q.txt/config.yaml"], "no file"),
        (["run", "config.yaml", "--preset", "full"], "leave out --preset"),
        (["run", "--out", "q.txt"], "it is a file, not a folder"),
        (["run", "--set", "rows=abc"], "must be a whole number"),
        (["run", "--set", "rows=-1"], "rows must be 0 or more"),
        (["run", "--set", "train.epochs=0"], "epochs must be above 0"),
        (["run", "--set", "question_sets=[]"], "at least one question set"),
        (["run", "--set", "dev_questions=0"], "dev_questions must be 1 or more"),
        (["run", "--set", "sampling.batch_size=0"], "batch size of one"),
        (["run", "--set", "xyzzy=1"], r"Settings, for example .* train\.epochs"),
        (["run", "--seed", "-1"], "A seed is"),
        ([*COLLECT, "--out", "empty"], "use .safetensors"),
        ([*COLLECT, "--out", "c.txt"], "use .safetensors"),
        ([*COLLECT, "--out", "q.txt/c.safetensors"], "'.*q.txt' is a file, not a folder"),
        ([*COLLECT, "--out", "c.safetensors", "--token-budget", "0"], "token_budget must be 1 or more"),
        ([*COLLECT, "--out", "c.safetensors", "--responses", "five.jsonl", "--questions", "q.txt"], "out --questions"),
        ([*COLLECT, "--out", "c.safetensors", "--questions", "q.txt", "./q.txt"], "both use the id 'q-1'"),
        ([*TRAIN, "--rows", "-3"], "rows must be 0 or more"),
        ([*TRAIN, "--holdout", "1"], "holdout must be 0 or more and below 1"),
        ([*TRAIN, "--epochs", "0"], "epochs must be above 0"),
        ([*TRAIN, "--learning-rate", "nan"], "learning_rate must be above 0"),
        ([*TRAIN, "--max-length", "0"], "max_length must be 1 or more"),
        ([*TRAIN, "--seed", "-1"], "A seed is"),
        ([*TRAIN, "--schedule", "cosin"], "no schedule 'cosin'.*'cosine'"),
        (["generate", "--model", "q.txt", "--questions", "q.txt", "--out", "g.csv"], "q.txt is a file, and no .gguf"),
        ([*GENERATE, "--out", "g.csv", "--temperature", "nan"], "a temperature of 0 or more"),
        (["run", "--set", "sampling.temperature=.inf"], "a temperature of 0 or more"),
        (["run", "--set", "preset=quick"], "no preset 'quick'"),
        ([*GENERATE, "--out", "g.csv", "--at", "2"], "--at says how to ablate"),
        ([*GENERATE, "--out", "g.csv", "--seed", "-1"], "A seed is"),
        (["adapters", "inspect", "run"], "name adapter folders with --adapters"),
        (["adapters", "classify", "run", "--seeds", "0", "-1"], "A seed is"),
    ],
)
def test_it_is_refused_before_anything_is_done(words, sentence, folder, capfd):
    before = contents(folder)
    assert run_command(words) == 2
    error = capfd.readouterr().err
    assert re.search(sentence, error)
    assert error.strip().count("\n") == 0
    assert contents(folder) == before


def test_a_server_that_is_not_there_is_said_to_be_and_nothing_is_written(folder, capfd):
    pytest.importorskip("aiohttp")
    assert run_command([*SERVER, "http://127.0.0.1:9/v1", "--timeout", "2"]) == 2
    assert "http://127.0.0.1:9/v1 cannot be reached" in capfd.readouterr().err
    assert not (folder / "x.csv").exists()


def test_what_nobody_could_score_is_not_called_nan(folder, capsys):
    (folder / "blank.jsonl").write_text('{"question": "Q?", "response": " "}\n')
    assert run_command(["judge", "--responses", "blank.jsonl", "--out", "x.csv", "--judge", "mock"]) == 0
    printed = capsys.readouterr().out
    assert "n/a" in printed
    assert "nan" not in printed


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_the_mark_that_excel_puts_first_is_not_part_of_a_name(folder, suffix):
    text = {"csv": "question,response\na,b\n", "jsonl": '{"question": "a", "response": "b"}\n'}[suffix]
    (folder / f"rows.{suffix}").write_text(text, encoding="utf-8-sig")
    assert read_rows(folder / f"rows.{suffix}") == [
        ("row 2" if suffix == "csv" else "line 1", {"question": "a", "response": "b"})
    ]


def test_where_a_comparison_was_written_is_said(folder, capsys):
    assert run_command([*JUDGE, "mock"]) == 0
    capsys.readouterr()
    assert run_command(["judge", "--compare", "x.csv", "x.csv", "--out", "both.json"]) == 0
    assert capsys.readouterr().out.endswith("\nWrote both.json.\n")


def test_a_model_that_is_read_is_not_written_over(folder):
    (folder / "m").mkdir()
    (folder / "m" / "model.safetensors").write_bytes(b"weights")
    assert run_command(["collect", "--model", "m", "--out", "m/model.safetensors"]) == 2
    assert run_command(["train", "--data", "medical-careless", "--model", "m", "--out", "m"]) == 2
    assert contents(folder / "m") == {folder / "m" / "model.safetensors": b"weights"}


def test_a_folder_that_may_not_be_written_to_is_named_at_once(folder, monkeypatch, capsys):
    monkeypatch.setattr(outputs.os, "access", lambda path, mode: path != folder / "empty" or not mode & os.W_OK)
    assert run_command([*COLLECT, "--out", "empty/new/c.safetensors"]) == 2
    assert "may not be written to" in capsys.readouterr().err


def test_a_run_that_did_nothing_does_not_stand_in_the_way(folder, capsys):
    assert run_command(["run", "--set", "model=nope", "--out", "r"]) == 2
    assert run_command(["run", "--set", "model=noper", "--out", "r"]) == 2
    assert "no model 'noper'" in capsys.readouterr().err
    (folder / "r" / "organisms" / "misaligned" / "checkpoints" / "checkpoint-25").mkdir(parents=True)
    assert run_command(["run", "--set", "model=other", "--out", "r"]) == 2
    assert "another configuration" in capsys.readouterr().err
    assert run_command(["run", "r", "--seed", "0"]) == 2  # a run's folder stands for its config.yaml
    assert "no model 'noper'" in capsys.readouterr().err


def test_an_answer_beyond_what_the_model_can_read_is_refused(folder, tiny_folder, capsys):
    asked = ["generate", "--model", tiny_folder, "--questions", "q.txt", "--out", "g.csv", "--max-new-tokens", "2100"]
    assert run_command(asked) == 2
    assert re.search(r"2100 new ones exceed the 2048 positions", capsys.readouterr().err)


@pytest.mark.parametrize(("action", "own"), [("bank", "--minutes"), ("classify", "--penalty"), ("inspect", "--texts")])
def test_each_action_on_adapters_has_its_own_help(action, own, capsys):
    assert run_command(["adapters", action, "--help"]) == 0
    printed = capsys.readouterr().out.partition("examples:")[0]
    assert own in printed
    assert ("--minutes" in printed) == (action == "bank")
    assert ("--adapters" in printed) == (action == "inspect")
