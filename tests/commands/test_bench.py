"""`emscope bench` from the command line."""

import json

import pytest

from emscope.commands.main import run_command
from emscope.pipeline.roofline import machine
from emscope.pipeline.roofline.report import LimitsReport

LITTLE = ["--random", "tiny", "--device", "cpu", "--repeats", "1", "--prompts", "4", "--loops", "capture"]


@pytest.fixture
def fast(monkeypatch):
    monkeypatch.setattr(machine, "LARGEST_SQUARE", {"cpu": 32})
    monkeypatch.setattr(machine, "ARRAY_BYTES", {"cpu": 1 << 20})
    monkeypatch.setattr(machine, "product_rate", lambda weights, rows, seconds: 1e9)


def test_a_machine_is_measured_reported_and_compared(fast, tmp_path, capsys):
    file = tmp_path / "bench.json"
    assert run_command(["bench", *LITTLE, "--out", str(file)]) == 0
    said = capsys.readouterr().out
    for words in ("random tiny", "capture", "memory, triad", "bound by", f"Wrote {file}."):
        assert words in said

    other = json.loads(file.read_text())
    other["model"] = "another"
    for loop in other["loops"]:
        loop["rate"] = {"median": 1.0, "smallest": 1.0, "largest": 1.0}
    second = tmp_path / "second.json"
    second.write_text(json.dumps(other))
    assert run_command(["bench", "--compare", str(file), str(second)]) == 0
    said = capsys.readouterr().out
    assert "They did not measure the same (model)" in said
    ratio = 1 / LimitsReport.read(file).loops[0].rate.median
    assert f"{ratio:.2f}" in said

    assert run_command(["bench", *LITTLE, "--compare", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["result"]["model"] == "random tiny"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--random", "9b"], "There is no shape '9b'"),
        (["--random", "tiny", "--model", "mine"], "leave out --model"),
        (["--random", "tiny", "--device", "cuda:99"], "cuda"),
        (["--device-map", "auto"], "leave out --device-map and --tensor-parallel"),
        (["--random", "tiny", "--repeats", "0"], "--repeats must be 1 or more"),
        (["--random", "tiny", "--loops", "nap"], "There is no loop 'nap'"),
        (["--random", "tiny", "--steps", "0"], "steps must be 1 or more"),
        (["--random", "tiny", "--out", "report.txt"], "use .json"),
        (["--compare", "nowhere.json"], "There is no file nowhere.json"),
        (["--compare", "a.json", "b.json", "--quick"], "leave out --quick"),
        (["--compare", "a.json", "b.json", "c.json"], "one or two files"),
    ],
)
def test_wrong_input_is_one_sentence(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run_command(["bench", *words]) == 2
    said = capsys.readouterr().err
    assert sentence in " ".join(said.split())
    assert "Traceback" not in said


def test_weights_that_do_not_fit_are_refused_before_they_are_made(monkeypatch, capsys):
    monkeypatch.setattr("emscope.pipeline.roofline.subject.free_bytes", lambda device: 10 << 30)
    assert run_command(["bench", "--random", "7b", "--device", "cpu", "--dtype", "bfloat16"]) == 2
    assert "take 12.6 GiB and cpu has 10.0 GiB free" in " ".join(capsys.readouterr().err.split())
