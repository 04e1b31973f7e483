"""The measurement of kills and faults in its shortest form: a few kills and faults, and what its comparison sees."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from survive.comparing import contents

ROOT = Path(__file__).parent.parent


@pytest.mark.skipif(not hasattr(os, "fork"), reason="it forks")
def test_killed_and_disturbed_commands_go_on_to_the_same_bytes(tmp_path):
    out = tmp_path / "survive.json"
    command = [
        sys.executable,
        "-m",
        "survive",
        "--kills",
        "2",
        "--only",
        "kills",
        "--settings",
        "run,judge-server",
        "--workers",
        "1",
        "--out",
        str(out),
        "--scratch",
        str(tmp_path),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    ending = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ending.returncode == 0, ending.stdout + ending.stderr[-3000:]

    figures = json.loads(out.read_text(encoding="utf-8"))
    for name in ("run", "judge-server"):
        figure = figures["kills"]["settings"][name]
        assert figure["kills"] == figure["same_bytes"] == 2
        assert figure["varies_undisturbed"] == []
    served = figures["kills"]["settings"]["judge-server"]
    assert served["most_after_one_kill"] <= served["calls_in_flight"]
    assert figures["all_survived"]


FILES = {
    "run/lineage.json": {"stages": {"train": {"seconds": 1.0, "key": "k", "inputs": {"a.json": "1"}, "outputs": {}}}},
    "run/a.json": {"value": 1.0, "seconds": 3.0},
    "run/b.json": {"value": 1.0},
}


def write(folder, **changed):
    for name, value in {**FILES, **changed}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(value), encoding="utf-8")
    return contents(folder)


def test_times_are_left_out_of_a_comparison_and_nothing_else(tmp_path):
    plain = write(tmp_path / "plain")
    later = {"stages": {"train": {"seconds": 9.0, "key": "l", "inputs": {"a.json": "2"}, "outputs": {}}}}
    assert not plain.differences(
        write(tmp_path / "later", **{"run/a.json": {"value": 1.0, "seconds": 4.0}, "run/lineage.json": later})
    )
    assert plain.exact == {"run/b.json"}
    for number, (name, value) in enumerate(
        {
            "run/a.json": {"value": 2.0, "seconds": 3.0},
            "run/b.json": {"value": 1.5},
            "run/extra.json": {},
            "run/lineage.json": {"stages": {}},
        }.items()
    ):
        assert plain.differences(write(tmp_path / str(number), **{name: value})) == [name]


def test_half_a_file_differs_and_a_hidden_one_does_not_count(tmp_path):
    plain = write(tmp_path / "plain")
    write(tmp_path / "torn")
    (tmp_path / "torn" / "run" / "b.json").write_text('{"val', encoding="utf-8")
    (tmp_path / "torn" / "run" / ".b.json.tmp").write_text("left behind", encoding="utf-8")
    assert plain.differences(contents(tmp_path / "torn")) == ["run/b.json"]


def test_only_the_columns_of_speeds_are_left_out_of_a_page(tmp_path):
    row = "<tr><td>train</td><td>{}</td><td>{}</td></tr>"
    page = "<table><tr><th>stage</th><th>seconds</th><th>loss</th></tr>{}</table><p>{}</p>"
    for name, seconds, loss in (("one", 1, 0.5), ("slower", 2, 0.5), ("other", 1, 0.6)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.html").write_text(page.format(row.format(seconds, loss), "words"), encoding="utf-8")
    one, slower, other = (contents(tmp_path / name) for name in ("one", "slower", "other"))
    assert not one.differences(slower)
    assert one.differences(other) == ["report.html"]
