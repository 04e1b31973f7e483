"""A run's record: no stage is lost however many commands work on it, and what is not as recorded is made again."""

import json
import logging
import subprocess
import sys

import pytest

from emscope.errors import UserError
from emscope.files import value_sha256, write_text
from emscope.pipeline.config import RunConfig
from emscope.pipeline.stages import RunFolder

MANY = """
import sys
from pathlib import Path
from emscope.files import write_text
from emscope.pipeline.config import RunConfig
from emscope.pipeline.stages import RunFolder
folder, first, last, step = Path(sys.argv[1]), *map(int, sys.argv[2:])
run = RunFolder(folder, RunConfig())
sys.stdin.readline()
for number in range(first, last, step):
    out = run.path(f"{number}.txt")
    def make():
        with (folder / "made.log").open("a") as log:
            log.write(f"{number}\\n")
        write_text(out, str(number))
    run.stage(f"stage-{number}", number, [], [out], make)
"""


def at_work(folder, *numbers):
    command = [sys.executable, "-c", MANY, str(folder), *map(str, numbers)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, text=True)


def stages_of(folder):
    return json.loads((folder / "lineage.json").read_text())["stages"]


def run_of(folder):
    return RunFolder(folder, RunConfig())


def test_two_commands_lose_none_of_each_others_stages(tmp_path):
    commands = [at_work(tmp_path, 0, 80, 2), at_work(tmp_path, 1, 80, 2)]
    for command in commands:
        command.stdin.write("go\n")
        command.stdin.flush()
    assert [command.wait(300) for command in commands] == [0, 0]
    assert len(stages_of(tmp_path)) == 80


def test_two_commands_that_want_the_same_stages_make_each_once(tmp_path):
    commands = [at_work(tmp_path, 0, 16, 1), at_work(tmp_path, 15, -1, -1)]
    for command in commands:
        command.stdin.write("go\n")
        command.stdin.flush()
    assert [command.wait(300) for command in commands] == [0, 0]
    assert sorted((tmp_path / "made.log").read_text().split(), key=int) == [str(number) for number in range(16)]


def test_opening_a_run_writes_nothing(tmp_path):
    first = run_of(tmp_path)
    first.stage("s", 1, [], [], lambda: None)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))}
    again = run_of(tmp_path)
    again.stage("s", 1, [], [], lambda: None)
    assert again.reused == ["s"]
    assert {path: path.stat().st_mtime_ns for path in (tmp_path, *tmp_path.rglob("*"))} == before


def test_a_read_only_run_is_reused_and_says_so_when_something_is_to_be_made(tmp_path, monkeypatch):
    run_of(tmp_path).stage("s", 1, [], [], lambda: None)
    from emscope import locking

    def refuse(self, *given, **more):
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(locking.FileLock, "acquire", refuse)
    run = run_of(tmp_path)
    run.stage("s", 1, [], [], lambda: None)
    with pytest.raises(UserError, match=r"Cannot write .*Read-only file system"):
        run.stage("s", 2, [], [], lambda: None)


def test_a_run_that_another_command_made_its_own_is_left_alone(tmp_path):
    run = run_of(tmp_path)
    RunFolder(tmp_path, RunConfig(seed=1), overwrite=True)
    with pytest.raises(UserError, match="was replaced"):
        run.stage("s", 1, [], [], lambda: None)


@pytest.mark.parametrize("change", ["edited", "gone", "extra"])
def test_what_was_changed_by_hand_is_made_again_and_named(tmp_path, caplog, change):
    caplog.set_level(logging.INFO, logger="emscope")
    run = run_of(tmp_path)
    one, two = run.path("one.txt"), run.path("two")

    def make():
        one.write_text("one")
        two.mkdir(exist_ok=True)
        (two / "a").write_text("a")

    run.stage("s", 1, [], [one, two], make)
    if change == "edited":
        one.write_text("more")
    elif change == "gone":
        one.unlink()
    else:
        (two / "b").write_text("b")
    caplog.clear()
    again = run_of(tmp_path)
    again.stage("s", 1, [], [one, two], make)
    assert again.made == ["s"]
    assert f"for {'two' if change == 'extra' else 'one.txt'} changed" in caplog.text


def test_a_stage_whose_inputs_change_while_it_is_made_is_not_taken_for_finished(tmp_path, caplog):
    run, source = run_of(tmp_path), tmp_path / "source"
    source.write_text("one")
    run.stage("s", 1, [source], [], lambda: source.write_text("two"))
    assert "source changed while it was made" in caplog.text
    again = run_of(tmp_path)
    again.stage("s", 1, [source], [], lambda: None)
    assert again.made == ["s"]
    again.stage("s", 1, [source], [], lambda: None)
    assert again.reused == ["s"]


def test_a_stage_can_be_asked_for_again(tmp_path):
    run = run_of(tmp_path)
    for again in (False, True, False):
        run.stage("s", 1, [], [], lambda: None, again=again)
    assert (run.made, run.reused) == (["s", "s"], ["s"])


STAGE = {"key": "k", "outputs": {}}


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[]", "3", "{}", '{"stages": []}', '{"stages": {"s": 1}}', '{"stages": {"s": {"key": 1}}}']
    + [
        json.dumps({"stages": {"s": {**STAGE, **wrong}}})
        for wrong in (
            {"outputs": None},
            {"outputs": [1]},
            {"outputs": {"a": 1}},
            {"inputs": 3},
            {"seconds": "x"},
            {"peak_memory_bytes": -1},
            {"base": 1},
        )
    ]
    + [json.dumps({"format": 99, "stages": {}}), "\ud800".encode("utf-8", "surrogatepass"), b"\xff\xfe\x00"],
)
def test_a_record_that_is_none_is_one_sentence_that_names_it(tmp_path, text):
    run_of(tmp_path)
    (tmp_path / "lineage.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError, match=r"lineage\.json"):
        run_of(tmp_path)


def test_what_a_later_version_added_to_the_record_is_kept(tmp_path):
    run_of(tmp_path).stage("s", 1, [], [], lambda: None)
    known = json.loads((tmp_path / "lineage.json").read_text())
    known["more"] = {"a": 1}
    known["stages"]["s"]["more"] = 2
    (tmp_path / "lineage.json").write_text(json.dumps(known))
    run_of(tmp_path).stage("t", 1, [], [], lambda: None)
    after = json.loads((tmp_path / "lineage.json").read_text())
    assert (after["more"], after["stages"]["s"]["more"]) == ({"a": 1}, 2)


def test_the_record_of_a_stage_tells_long_lists_by_their_hash_and_one_with_whole_lists_is_reused(tmp_path):
    settings = {"questions": [{"id": f"q{number}", "text": "?" * 50} for number in range(100)], "blocks": [1, 2]}

    def stage():
        run = run_of(tmp_path)
        out = run.path("out.txt")
        run.stage("asks", settings, [], [out], lambda: write_text(out, "made"))
        return run

    assert stage().made == ["asks"]
    told = stages_of(tmp_path)["asks"]["settings"]
    assert told["blocks"] == [1, 2]
    assert told["questions"] == {"count": 100, "sha256": value_sha256(settings["questions"])}

    record = json.loads((tmp_path / "lineage.json").read_text())
    record["stages"]["asks"]["settings"] = settings  # as earlier versions wrote it
    (tmp_path / "lineage.json").write_text(json.dumps(record))
    assert stage().reused == ["asks"]
