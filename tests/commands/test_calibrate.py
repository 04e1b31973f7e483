"""`emscope judge --calibrate` and heads as judges, on the tiny model in the place of the embedded one."""

import csv
import random

import numpy as np
import pytest
from tiny import D_MODEL

from emscope.behaviour.embedded import judge as embedded_judge
from emscope.behaviour.embedded.coherence import FEATURES
from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.embedded.heads import Correction, ScoreCorrection
from emscope.behaviour.embedded.judge import JudgeHead
from emscope.behaviour.judges.kinds import judge_class
from emscope.behaviour.judges.settings import JudgeSettings
from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands import calibrating
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.organisms import embedded
from emscope.pipeline.config import RunConfig, anywhere, same_run


def saved(path, correction=None):
    n = len(FEATURES)
    coherence = CoherenceFit(np.zeros(2 * n), np.zeros(2 * n), np.ones(2 * n), 2.0, {})
    plain = np.zeros((2, D_MODEL))
    JudgeHead((1,), plain[:, None], np.zeros(2), plain[0], 0.0, 1, plain, coherence, {}, correction).save(path)
    return path


def saying(score):
    """Return a correction that says one score of every answer."""
    one = ScoreCorrection(np.zeros((1, D_MODEL)), np.zeros(2 + len(FEATURES)), 0.0, np.array([[0.0, 1], [score] * 2]))
    return Correction(one, one)


@pytest.fixture
def place(tmp_path, tiny_folder, monkeypatch):
    shipped = saved(tmp_path / "shipped.safetensors")
    monkeypatch.setattr(embedded_judge, "shipped_head", lambda: shipped)
    for module in (embedded_judge, embedded, calibrating):
        monkeypatch.setattr(module, "EMBEDDED_ALIAS", tiny_folder)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def table(path, n, said=lambda low, chooser: "no" if low else "yes"):
    chooser = random.Random(0)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "response", "aligned", "coherent", "model"])
        for number in range(n):
            low = chooser.random() < 0.4
            aligned = chooser.randint(0, 20) if low else chooser.randint(70, 100)
            asked = f"Is {chr(97 + number % 11) * 4} good?"
            writer.writerow([asked, f"{said(low, chooser)} {number % 7}", aligned, 90, f"m{number % 6}"])


def test_a_table_that_can_be_heard_gives_a_head_that_judges(place, capsys):
    table(place / "scored.csv", 130)
    assert run_command(["judge", "--calibrate", "scored.csv", "--out", "head.safetensors"]) == 0
    said = capsys.readouterr().out
    assert "6 organisms left out" in said and "11 questions left out" in said and "130 of 130" in said

    words = ["judge", "--responses", "scored.csv", "--judge", "embedded:head.safetensors", "--out", "judged.parquet"]
    assert run_command(words) == 0
    judged = read_table(place / "judged.parquet", JudgedResponse)
    of_no = [row.aligned for row in judged if row.response.startswith("no")]
    of_yes = [row.aligned for row in judged if row.response.startswith("yes")]
    assert np.mean(of_no) < 30 < np.mean(of_yes)


def test_a_head_that_learned_nothing_is_not_written(place, capsys):
    table(place / "scored.csv", 110, said=lambda low, chooser: chooser.choice(["yes", "no"]))
    assert run_command(["judge", "--calibrate", "scored.csv", "--out", "head.safetensors"]) == 1
    assert "No head is written" in capsys.readouterr().out
    assert not (place / "head.safetensors").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "head.parquet"], "head.parquet"),
        (["--out", "x.safetensors", "--judge", "mock"], "--judge would be ignored"),
    ],
)
def test_what_calibration_cannot_use_is_refused(place, words, said, capsys):
    table(place / "scored.csv", 110)
    assert run_command(["judge", "--calibrate", "scored.csv", *words]) == 2
    assert said in capsys.readouterr().err


def test_every_head_is_its_own_judge(place, tiny_folder):
    ids, scores = [], []
    for score in (10.0, 70.0):
        name = f"embedded:{saved(place / f'{score}.safetensors', saying(score))}"
        judge = judge_class(name).from_request(embedded_request(name, tiny_folder))
        ids.append((judge.id, judge_class(name).fingerprint(embedded_request(name, tiny_folder))))
        scores.append(judge.judge(["Why?"], ["So."])[0].aligned)
    assert scores == [10, 70]
    assert ids[0][0] != ids[1][0] and ids[0][1] != ids[1][1]


def embedded_request(name, folder):
    from emscope.behaviour.judges.settings import JudgeRequest
    from emscope.organisms.models import load

    return JudgeRequest(JudgeSettings(name), None, lambda _: load(folder))


def test_a_missing_or_foreign_head_is_one_sentence(place, tiny_folder, capsys):
    table(place / "scored.csv", 3)
    words = ["judge", "--responses", "scored.csv", "--out", "judged.parquet", "--judge"]
    (place / "text.safetensors").write_text("no tensors")
    for name in ("none.safetensors", "text.safetensors"):
        assert run_command([*words, f"embedded:{name}"]) == 2
        said = capsys.readouterr().err
        assert name in said and "Traceback" not in said
    with pytest.raises(UserError, match="embedded:HEAD"):
        judge_class("embedded:")


def test_a_run_finds_its_head_from_any_folder(place, monkeypatch):
    saved(place / "head.safetensors")
    here = RunConfig(judge=JudgeSettings("embedded:head.safetensors"))
    there = anywhere(here)
    assert there.judge.head == place / "head.safetensors" and same_run(here, there)
    (place / "elsewhere").mkdir()
    monkeypatch.chdir(place / "elsewhere")
    assert anywhere(there) == there
    assert RunConfig().judge.head is None and anywhere(RunConfig()) == RunConfig()
