"""A run is judged by whichever judge its configuration names, and no score is asked for twice."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from behaviour.judges.faulty_server import FaultyServer
from tiny_run import arguments

from emscope.behaviour.judges.settings import JudgeSettings
from emscope.behaviour.judges.store import ScoreStore
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.outside import read_json
from emscope.pipeline.config import configure, dump_config, hashed_settings, load_config, same_run
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder

CONCURRENCY = 4
FAULTS = {429: 0.12, 500: 0.1, "reset": 0.05, "garbage": 0.03}


def judged_rows(out):
    return {path.stem: read_table(path, JudgedResponse) for path in sorted((out / "judgements").glob("*.parquet"))}


def with_server(out, server, tiny_folder, *more):
    flags = ["--judge", "openai:any", "--base-url", server.url, "--concurrency", str(CONCURRENCY)]
    return arguments(out, *flags, *more, model=tiny_folder)


def test_a_killed_run_pays_for_no_answered_call_twice(tiny_folder, tmp_path):
    pytest.importorskip("aiohttp")
    out = tmp_path / "run"
    with FaultyServer(FAULTS, delay=0.01) as server:
        command = [sys.executable, "-m", "emscope", *with_server(out, server, tiny_folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=environment)
        while sum(server.answered.values()) < 150 and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (out / "summary.json").exists()

        ended = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert ended.returncode == 0, ended.stderr
        answered, asked = sum(server.answered.values()), sum(server.asked.values())
        assert answered < 0.85 * asked  # it did fail its calls
        assert sum(n - 1 for n in server.answered.values()) <= CONCURRENCY  # what was in flight when it was killed

        again = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert again.returncode == 0
        assert "\n0 stages made" in again.stdout
        assert sum(server.answered.values()) == answered
    _check_run(out, f"openai:any@{server.url}")


def _check_run(out, name):
    rows = [row for rows in judged_rows(out).values() for row in rows]
    assert rows
    assert all(row.judge.startswith(name) for row in rows)
    assert all(row.aligned is not None for row in rows if row.response.strip())
    judge = read_json(out / "summary.json")["judge"]
    assert [text.startswith(name) for text in judge["judges"]] == [True]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert name in page
    assert "Two linear heads" not in page  # what the embedded judge says of itself
    assert load_config(out / "config.yaml").judge.name == name.partition("@")[0]


def test_a_run_with_a_local_model_as_judge(tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr("emscope.behaviour.judges.scoring.LEAST_MASS", 0.0)  # a random model has little mass on digits
    out = tmp_path / "run"
    assert run_command(arguments(out, "--judge", f"hf:{tiny_folder}", model=tiny_folder)) == 0
    rows = judged_rows(out)
    assert {row.mode for row in rows["base"] if row.aligned is not None} == {"digits"}
    assert all(row.judge.startswith(f"hf:{tiny_folder}@") for row in rows["ablation"])
    assert "Two linear heads" not in (out / "report.html").read_text(encoding="utf-8")


def test_a_local_model_that_gives_no_numbers_is_told_before_training(tiny_folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_command(arguments(out, "--judge", f"hf:{tiny_folder}", model=tiny_folder)) == 2
    assert "gives no scores" in capsys.readouterr().err
    assert not (out / "organisms").exists()


@pytest.mark.parametrize(
    ("judge", "sentence"),
    [
        ("opena:x", "Did you mean 'openai'"),
        ("openai", "use embedded, embedded:HEAD, openai:MODEL"),
        ("hf:no/such", "no/such"),
    ],
)
def test_an_unknown_judge_is_one_sentence(judge, sentence, tiny_folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert run_command(arguments(tmp_path / "run", "--judge", judge, model=tiny_folder)) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run" / "organisms").exists()


@pytest.mark.parametrize(("faults", "word"), [({401: 1.0}, "key"), ({"empty": 1.0}, "no choices")])
def test_a_server_that_refuses_is_told_before_training(faults, word, tiny_folder, tmp_path, capsys):
    pytest.importorskip("aiohttp")
    out = tmp_path / "run"
    with FaultyServer(faults) as server:
        words = with_server(out, server, tiny_folder, "--set", "judge.attempts=2")
        assert run_command(words) == 2
        assert sum(server.asked.values()) <= 12
    said = capsys.readouterr().err
    assert word in said
    assert "Traceback" not in said
    assert not (out / "organisms").exists()


def test_a_judge_without_probabilities_is_read_by_its_replies(tiny_folder, tmp_path):
    pytest.importorskip("aiohttp")
    out = tmp_path / "run"
    with FaultyServer(logprobs=None) as server:
        assert run_command(with_server(out, server, tiny_folder)) == 0
    assert {row.mode for row in judged_rows(out)["base"]} <= {"reply", ""}
    assert read_json(out / "summary.json")["judge"]["modes"].keys() == {"reply"}


def test_the_score_of_the_first_call_is_kept(tiny_folder, tmp_path):
    pytest.importorskip("aiohttp")
    with FaultyServer() as server:
        changes = [f"model={tiny_folder}", "judge=openai:any", f"judge.base_url={server.url}"]
        config = configure("quickstart", 0, changes)
        for _ in range(2):
            Lab(config, RunFolder(tmp_path, config)).check_judge()
        assert sum(server.asked.values()) == 2  # one answer, two rubrics, once
    with ScoreStore(Path(tmp_path, "scores.sqlite")) as store:
        (n,) = store._connection.execute("SELECT count(*) FROM scores").fetchone()
    assert n == 2


def configured(*changes, **flags):
    return configure("quickstart", None, list(changes), flags)


def test_the_judge_that_comes_with_emscope_leaves_configurations_as_they_were():
    config = configured()
    assert "judge" not in dump_config(config)
    assert "judge" not in hashed_settings(config)
    assert "judge" not in hashed_settings(configured("judge.concurrency=3"))


def test_a_judge_survives_the_disk_and_may_be_a_name_alone(tmp_path):
    config = configured("judge=openai:any", "judge.base_url=http://127.0.0.1:9/v1", "judge.concurrency=3")
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == config
    (tmp_path / "short.yaml").write_text("judge: hf:owner/model\n", encoding="utf-8")
    assert load_config(tmp_path / "short.yaml").judge == JudgeSettings("hf:owner/model")


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ("judge.concurrency=1", True),
        ("judge.attempts=2", True),
        ("judge.api_key_env=OTHER", True),
        ("judge.base_url=http://127.0.0.1:10/v1", False),
        ("judge.name=openai:other", False),
        ("judge.logprobs=false", False),
    ],
)
def test_a_run_is_another_where_its_scores_would_be(change, same):
    judged = "judge=openai:any", "judge.base_url=http://127.0.0.1:9/v1"
    one, other = configured(*judged), configured(*judged, change)
    assert same_run(one, other) == same
    assert (hashed_settings(one) == hashed_settings(other)) == same


def test_another_judge_has_another_address(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:11/v1")
    first = configured(**{"judge.name": "openai:any", "judge.base_url": "http://127.0.0.1:9/v1"})
    assert configure(first, None, []).judge.base_url == "http://127.0.0.1:9/v1"
    assert configure(first, None, ["judge.name=openai:other"]).judge.base_url == "http://127.0.0.1:11/v1"
    assert configure(first, None, ["judge.name=mock"]).judge.base_url == ""


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["judge=mokc"], "Did you mean 'mock'"),
        (["judge.base_url=http://127.0.0.1:9/v1"], "asks no server"),
        (["judge=openai:any", "judge.concurrency=0"], "concurrency"),
        (["judge.nam=mock"], "Did you mean 'name'"),
        (["judge=openai:any", "judge.base_url=elsewhere"], "not the address"),
    ],
)
def test_a_judge_that_makes_no_sense_is_refused(changes, sentence):
    with pytest.raises(UserError, match=sentence):
        configured(*changes)


def test_other_rubrics_in_the_same_file_mean_judging_again(tmp_path):
    rubrics = tmp_path / "rubrics.yaml"
    config = configured("judge=openai:any", "judge.base_url=http://127.0.0.1:9/v1", f"judge.rubrics={rubrics}")
    known = set()
    for word in ("fair", "kind"):
        rubrics.write_text(f"aligned: 'Is {{answer}} {word}?'\ncoherent: 'Is {{answer}} clear?'\n", encoding="utf-8")
        known.add(Lab(config, RunFolder(tmp_path / "run", config)).judge_fingerprint)
    assert len(known) == 2
