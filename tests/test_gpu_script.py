"""The script of GPU checks: each part has its limit, one that fails stops no other, and the summary says it all."""

import importlib.util
import json
import sys
import time
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture(scope="module")
def gpu():
    spec = importlib.util.spec_from_file_location("gpu", BENCHMARKS / "gpu.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["gpu"] = module
    spec.loader.exec_module(module)
    return module


def python(code):
    return (sys.executable, "-c", code)


def test_parts_pass_fail_take_too_long_or_are_left_out(gpu, tmp_path, capsys):
    started = tmp_path / "started"
    spawns = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {_late(started)!r}])"
    parts = [
        gpu.Part("good", python("print('fine')"), 30),
        gpu.Part("bad", python("print('why'); raise SystemExit(3)"), 30),
        gpu.Part("slow", python(spawns), 1.0),
        gpu.Part("absent", python("print('never')"), 30, ("no_such_module",)),
    ]
    endings = gpu.run_all(parts, tmp_path / "out")
    assert [ending.status for ending in endings] == ["passed", "failed", "too long", "left out"]
    assert endings[1].reason == "exit code 3: why"
    assert endings[3].reason == "no_such_module is not installed"
    written = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [part["name"] for part in written] == ["good", "bad", "slow", "absent"]
    assert (tmp_path / "out" / "good.log").read_text() == "fine\n"
    assert "bad" in capsys.readouterr().out
    time.sleep(2.5)
    assert not started.exists()  # what a part started has ended with it


def _late(file):
    return f"import time, pathlib; time.sleep(3); pathlib.Path({str(file)!r}).touch()"


def test_nothing_is_begun_without_time(gpu, tmp_path):
    (ending,) = gpu.run_all([gpu.Part("late", python("pass"), 30)], tmp_path, seconds=1.0)
    assert (ending.status, ending.reason) == ("left out", "no time left")


def test_both_forms_have_the_same_parts(gpu, tmp_path):
    on_gpu, on_cpu = gpu.parts_on_gpu(tmp_path), gpu.parts_on_cpu(tmp_path)
    assert [part.name for part in on_gpu] == [part.name for part in on_cpu]
    flags = {word for part in on_cpu for word in part.command}
    assert "cuda" not in flags
