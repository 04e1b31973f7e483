"""Every command ends by saying what it wrote, or prints one JSON object of one schema."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from emscope.commands import catalogue, parsing
from emscope.commands.main import run_command
from emscope.commands.outcome import NOTHING_WRITTEN, Outcome, json_of, last_line, readable, show


@dataclass(frozen=True)
class Score:
    value: float
    by_block: np.ndarray


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ([], NOTHING_WRITTEN),
        ([Path("a.json")], "Wrote a.json."),
        ([Path("a"), Path("b"), Path("c")], "Wrote a, b and c."),
    ],
)
def test_the_last_line_names_all_files(files, sentence, capsys):
    assert last_line(files) == sentence
    show("detect", Outcome("found", files=files), as_json=False)
    assert capsys.readouterr().out == f"found\n{sentence}\n"


def test_json_is_one_object_whatever_the_result_holds(capsys):
    result = {"score": Score(float("nan"), np.array([1.5, 2.0])), "text": "\x9b\u202e naïve \x1b[2J"}
    show("detect", Outcome("text", result, [Path("a.json")]), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert list(told) == ["command", "result", "files"]
    assert told["result"] == {"score": {"value": None, "by_block": [1.5, 2.0]}, "text": result["text"]}
    assert told["files"] == ["a.json"]


def test_readable_rounds_numbers_and_nothing_else():
    assert readable({"a": 0.123456, "b": [1234567, "0.123456"]}) == "a: 0.1235\nb:\n- 1234567\n- '0.123456'\n"


@pytest.mark.parametrize("words", [["clean", "--json"], ["--json", "clean"]])
def test_json_may_stand_anywhere(words, monkeypatch, capsys):
    class Fake:
        stopped = ""

        def execute(self):
            return Outcome("seen by people alone\n", {"n": 1}, [], 1)

    monkeypatch.setattr(parsing, "parse", lambda kind, name, flags: Fake())
    assert run_command(words) == 1
    assert json.loads(capsys.readouterr().out) == {"command": "clean", "result": {"n": 1}, "files": []}


def test_an_error_leaves_standard_output_empty(capsys, tmp_path):
    assert run_command(["report", str(tmp_path), "--json"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "no finished run" in err


def test_json_of_nothing_is_null():
    assert json.loads(json_of("x", Outcome()))["result"] is None


def test_every_command_is_in_one_group_with_its_file():
    names = [name for group in catalogue.GROUPS.values() for name in group]
    assert len(names) == len(set(names)) == len(catalogue.COMMANDS)
    folder = Path(catalogue.__file__).parent
    written = {path.stem.replace("_", "-") for path in folder.glob("*.py") if "\nCOMMAND = " in path.read_text()}
    assert written <= set(names)
