"""`check` finds whatever is not as it was made and writes nothing; `clean` removes only what nothing needs."""

import json
import os
import shutil
import sqlite3
from pathlib import Path

import pytest

from emscope.behaviour.judges.scoring import Score
from emscope.behaviour.judges.store import ScoreStore
from emscope.commands.main import run_command
from emscope.pipeline.checking import check, drop_stages
from emscope.pipeline.inventory import left_over


@pytest.fixture
def copy(run, tmp_path):
    return Path(shutil.copytree(run, tmp_path / "copy"))


def state(folder):
    return {path: (path.lstat().st_mtime_ns, path.lstat().st_size) for path in (folder, *sorted(folder.rglob("*")))}


def findings(path):
    return [(finding.problem, finding.what, finding.stage) for finding in check(path).findings]


def test_a_finished_run_is_well_and_nothing_is_written(copy, capsys):
    before = state(copy)
    assert run_command(["check", str(copy)]) == 0
    assert "all well" in capsys.readouterr().out
    assert run_command(["clean", str(copy)]) == 0
    assert "every file belongs to a stage" in capsys.readouterr().out
    assert state(copy) == before


def test_what_was_changed_lost_or_added_is_found_and_made_again(copy, capsys):
    summary = json.loads((copy / "summary.json").read_text())
    (copy / "summary.json").write_text("{}")
    (copy / "detection.json").unlink()
    (copy / "directions" / "mine.safetensors").write_bytes(b"")
    found = findings(copy)
    assert ("changed", "summary.json", "summary") in found
    assert ("missing", "detection.json", "detect") in found
    assert ("changed", "directions", "directions") in found
    assert ("out of date", "detect", "detect") in found
    assert run_command(["check", str(copy)]) == 1
    assert "--repair" in capsys.readouterr().out
    assert run_command(["check", str(copy), "--repair"]) == 0
    assert "all well" in capsys.readouterr().out
    for again in (summary, made := json.loads((copy / "summary.json").read_text())):
        del again["seconds"], again["peak_memory_bytes"]
    assert made == summary


@pytest.mark.parametrize("damage", ["", "[]", '{"stages": 3}', '{"format": 9, "stages": {}}'])
def test_a_damaged_record_is_a_finding_of_a_run(copy, capsys, damage):
    (copy / "lineage.json").write_text(damage)
    assert run_command(["check", str(copy)]) == 1
    assert "lineage.json" in capsys.readouterr().out
    assert run_command(["check", str(copy), "--repair"]) == 2


def test_another_version_and_another_base_are_named(copy, tiny_folder, tmp_path):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    config = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(config.replace(str(tiny_folder), str(base)))
    assert findings(copy) == []
    record = json.loads((copy / "lineage.json").read_text())
    record["stages"]["summary"]["version"] = "0.0.1"
    (copy / "lineage.json").write_text(json.dumps(record))
    assert ("of another version", "summary", "summary") in findings(copy)
    weights = base / "model.safetensors"
    time = weights.stat().st_mtime_ns
    weights.write_bytes(weights.read_bytes()[:-4] + b"0000")
    os.utime(weights, ns=(time, time))
    assert {what for problem, what, _ in findings(copy) if problem == "of another base"} == set(record["stages"])


def test_an_organism_is_checked_alone(copy, capsys):
    organism = copy / "organisms" / "misaligned"
    assert run_command(["check", str(organism)]) == 0
    weights = organism / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    (organism / "README.md").unlink()
    assert [finding[:2] for finding in findings(organism)] == [
        ("missing", "README.md"),
        ("changed", "adapter_model.safetensors"),
    ]
    assert run_command(["check", str(organism), "--repair"]) == 2


def write_bank(folder, where="one", digest=None):
    from emscope.files import file_sha256

    (folder / "one").mkdir(parents=True)
    weights = folder / "one" / "adapter_model.safetensors"
    weights.write_bytes(b"weights")
    digest = digest or file_sha256(weights)
    (folder / "one" / "lineage.json").write_text(json.dumps({"outputs": {weights.name: digest}}))
    row = {"name": "one", "folder": where, "sha256": digest}
    (folder / "manifest.json").write_text(json.dumps({"organisms": [row]}))


def test_a_bank_is_checked_by_its_manifest(tmp_path):
    write_bank(tmp_path / "good")
    assert check(tmp_path / "good").findings == []
    write_bank(tmp_path / "changed", digest="0" * 64)
    assert [finding[:2] for finding in findings(tmp_path / "changed")] == [("changed", "one/adapter_model.safetensors")]
    for number, where in enumerate(("../good/one", "/etc", "")):
        write_bank(tmp_path / f"other-{number}", where)
        assert findings(tmp_path / f"other-{number}")


def test_a_store_of_scores_is_read_and_not_touched(tmp_path, capsys):
    path = tmp_path / "scores.sqlite"
    with ScoreStore(path) as store:
        store.put("a", Score(50.0, "", "logprobs"))
        assert check(path).n_checked == 1  # what is still in the log counts
    before = state(tmp_path)
    assert run_command(["check", str(path)]) == 0
    assert state(tmp_path) == before
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO scores VALUES ('b', 'text', '', 'm')")
    connection.commit()
    connection.close()
    assert run_command(["check", str(path)]) == 1
    assert "1 rows can be no scores" in capsys.readouterr().out
    path.write_bytes(path.read_bytes()[:5000])
    assert run_command(["check", str(path)]) == 1


@pytest.mark.parametrize("kind", ["nothing", "empty", "text", "database", "adapter"])
def test_what_is_not_ours_is_refused(tmp_path, capsys, kind):
    path = tmp_path / kind
    if kind == "text":
        path.write_text("text")
    elif kind == "database":
        connection = sqlite3.connect(path)
        connection.execute("CREATE TABLE t (a)")
        connection.close()
    elif kind != "nothing":
        path.mkdir()
        if kind == "adapter":
            (path / "adapter_model.safetensors").write_bytes(b"")
    assert run_command(["check", str(path)]) == 2
    assert run_command(["clean", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 2


def test_only_what_nothing_needs_is_removed_and_only_when_asked(copy, tmp_path, capsys):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (copy / "notes.txt").write_text("mine")
    (copy / "link").symlink_to(outside)
    (copy / ".summary.json.ab12.tmp").write_text("x" * 2000)
    (copy / "organisms" / "control" / ".saving-xy").mkdir()
    (copy / "organisms" / "control" / ".saving-xy" / "a.tmp").write_text("")
    (copy / "organisms" / "control" / "checkpoints" / "checkpoint-2").mkdir(parents=True)
    for name in ("detect", "unfinished"):
        (copy / ".parts" / name / "key").mkdir(parents=True)
    before = state(copy)
    listed = {str(item.path.relative_to(copy)): item.known for item in left_over(copy)}
    ours = {
        ".summary.json.ab12.tmp",
        "organisms/control/.saving-xy",
        "organisms/control/checkpoints",
        ".parts/detect",
    }
    assert listed == dict.fromkeys(ours, True) | {"notes.txt": False, "link": False}
    assert run_command(["clean", str(copy)]) == 0
    assert "2.0 kB" in capsys.readouterr().out
    assert state(copy) == before
    assert run_command(["check", str(copy)]) == 0
    assert "6 files or folders belong to no stage" in capsys.readouterr().out
    assert run_command(["clean", str(copy), "--yes"]) == 0
    assert {str(item.path.relative_to(copy)) for item in left_over(copy)} == {"notes.txt", "link"}
    assert (copy / ".parts" / "unfinished" / "key").is_dir()
    assert run_command(["clean", str(copy), "--yes", "--extra"]) == 0
    assert left_over(copy) == []
    assert (outside / "file").read_text() == "mine"
    assert check(copy).findings == []


def test_a_run_that_is_worked_on_is_not_cleaned(copy, capsys):
    from emscope.locking import locked

    (copy / ".a.tmp").write_text("")
    with locked(copy, "stage"):
        assert run_command(["clean", str(copy), "--yes"]) == 2
    assert "at work" in capsys.readouterr().err
    assert (copy / ".a.tmp").exists()


def test_a_stage_off_the_record_is_made_again_with_the_page(copy, capsys):
    drop_stages(copy, ["summary", "no such stage"])
    assert run_command(["run", str(copy)]) == 0
    assert "2 stages made" in capsys.readouterr().out
