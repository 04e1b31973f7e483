"""A run goes on from wherever it and its base lie now, and a run of an earlier version is reused whole."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from tiny_run import arguments

from emscope.commands.main import run_command
from emscope.pipeline import stages
from emscope.pipeline.stages import RunFolder


def made_and_reused(capsys):
    made, reused = re.findall(r"(\d+) stages made, (\d+) reused", capsys.readouterr().out)[-1]
    return int(made), int(reused)


def same_run_in(run, words, capsys):
    """Ask for a run again; returns how many stages are made."""
    capsys.readouterr()
    assert run_command(["run", str(run), *words]) == 0
    made, reused = made_and_reused(capsys)
    assert made + reused > 10
    return made


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def test_a_moved_a_copied_and_a_linked_run_make_nothing(copy, tmp_path, capsys, monkeypatch):
    assert same_run_in(copy, [], capsys) == 0
    moved = copy.rename(tmp_path / "moved")
    assert same_run_in(moved, [], capsys) == 0
    (tmp_path / "link").symlink_to(moved)
    assert same_run_in(tmp_path / "link", [], capsys) == 0
    monkeypatch.chdir(tmp_path)
    assert same_run_in("moved", [], capsys) == 0
    monkeypatch.chdir(moved)
    assert same_run_in(".", [], capsys) == 0


def test_no_file_of_a_run_holds_the_runs_own_place(finished):
    for path in finished.rglob("*"):
        assert not path.is_file() or str(finished).encode() not in path.read_bytes(), path


def test_a_moved_base_is_named_once_and_its_stages_are_reused(copy, tiny_folder, tmp_path, capsys, monkeypatch):
    base = Path(shutil.copytree(tiny_folder, tmp_path / "bases" / "one"))
    for path in base.iterdir():
        os.utime(path, ns=(3, 3))
    assert same_run_in(copy, ["--model", str(base)], capsys) == 0
    assert str(base) in (copy / "config.yaml").read_text()
    (copy / "responses" / "misaligned.parquet").unlink()  # its adapter records the base's first place
    moved = base.rename(tmp_path / "bases" / "two")
    monkeypatch.chdir(moved.parent)
    assert same_run_in(copy, ["--model", "two"], capsys) > 0
    assert f"model: {moved}" in (copy / "config.yaml").read_text()
    assert same_run_in(copy, [], capsys) == 0
    (moved / "model.safetensors").write_bytes((moved / "model.safetensors").read_bytes()[:-4] + b"0000")
    shutil.copytree(moved, tmp_path / "other")
    assert run_command(["run", str(copy), "--model", str(tmp_path / "other")]) == 2


def test_a_run_of_an_earlier_version_is_reused_and_from_then_on_known_by_contents(
    tiny_folder, head, tmp_path, capsys, monkeypatch
):
    from tiny_run import stand_in

    stand_in(monkeypatch, head, tiny_folder)
    base, out = Path(shutil.copytree(tiny_folder, tmp_path / "base")), tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(stages, "fingerprint", lambda name, checked=False: stages.earlier_fingerprint(name))
        assert run_command(arguments(out, model=str(base))) == 0
    record = json.loads((out / "lineage.json").read_text())
    for stage in record["stages"].values():
        assert stage["base"].startswith(f"{base}@")
        del stage["version"]
    del record["format"]
    (out / "lineage.json").write_text(json.dumps(record))
    assert same_run_in(out, [], capsys) == 0
    after = json.loads((out / "lineage.json").read_text())["stages"]
    assert {stage["base"] for stage in after.values()} == {RunFolder(out, stages.load_config(out / "config.yaml")).base}
    os.utime(base / "model.safetensors", ns=(3, 3))
    assert same_run_in(out, [], capsys) == 0
