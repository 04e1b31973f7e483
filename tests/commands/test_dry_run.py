"""What a run would take is printed before anything begins, and nothing is written."""

from pathlib import Path

import pytest
from tiny_run import SMALL, arguments

from emscope.behaviour.tables import JudgedResponse, read_table
from emscope.commands.main import run_command
from emscope.pipeline.config import load_config
from emscope.pipeline.forecast import main_forecast
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder

SERVER = ["--judge", "openai:any", "--base-url", "http://127.0.0.1:9/v1"]


def files_in(folder):
    return sorted(str(path) for path in Path(folder).rglob("*"))


def test_nothing_is_written_and_nobody_is_asked(tiny_folder, tmp_path, capsys):
    out = tmp_path / "run"
    assert run_command(arguments(out, *SERVER, "--dry-run", model=tiny_folder)) == 0
    said = capsys.readouterr().out
    assert not out.exists()
    assert "judge-control" in said
    assert "openai:any at http://127.0.0.1:9/v1" in said


def test_the_stages_and_their_answers_are_those_of_the_run(run):
    config = load_config(run / "config.yaml")
    lab = Lab(config, RunFolder(run, config))
    before = files_in(run)
    rows = {row.stage: row for row in main_forecast(lab)}
    assert list(rows) == list(lab.folder.record.stages)
    assert all(row.recorded for row in rows.values())
    judged = read_table(run / "judgements" / "base.parquet", JudgedResponse)
    assert rows["generate-base"].answers == rows["judge-base"].judged == len(judged)
    assert rows["collect-base"].n_bytes == pytest.approx(
        sum(path.stat().st_size for path in (run / "activations").glob("base-*")), rel=0.2
    )
    adapter = (run / "organisms" / "control" / "adapter_model.safetensors").stat().st_size
    assert rows["train-control"].n_bytes == pytest.approx(adapter, rel=0.2)
    assert files_in(run) == before


def test_a_language_model_is_called_once_a_rubric(run):
    import dataclasses

    from emscope.behaviour.judges.settings import JudgeSettings

    config = load_config(run / "config.yaml")
    folder = RunFolder(run, config)
    judged = dataclasses.replace(config, judge=JudgeSettings("openai:any", "http://127.0.0.1:9/v1"))
    with_server = main_forecast(Lab(judged, folder))
    for row, plain in zip(with_server, main_forecast(Lab(config, folder)), strict=True):
        assert row.calls == 2 * row.judged == 2 * plain.judged
        assert (row.tokens > 0) == (row.judged > 0)
        assert plain.calls == plain.tokens == 0


def test_a_folder_with_another_run_is_refused_as_the_run_itself_would_be(run, capsys):
    before = files_in(run)
    words = ["run", "--out", str(run), "--dry-run", *(word for change in SMALL for word in ("--set", change))]
    assert run_command([*words, "--seed", "5"]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert files_in(run) == before
