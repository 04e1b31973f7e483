"""Every script in examples/ runs as it stands, with the tiny model in place of the embedded one, and is short."""

import runpy
import sys
from pathlib import Path

import pytest
from behaviour.judges.faulty_server import FaultyServer

from emscope.organisms.datasets import load_conversations
from emscope.organisms.train import TrainSettings, train_adapter

EXAMPLES = Path(__file__).parent.parent / "examples"
MOST_LINES = 30


def names():
    return sorted(path.name for path in EXAMPLES.glob("*.py"))


@pytest.fixture
def script(monkeypatch, tmp_path, capsys):
    """Run a script of examples/ with arguments, in an empty folder, and return what it printed."""
    monkeypatch.chdir(tmp_path)

    def execute(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return execute


def test_there_are_six_and_each_is_one_page():
    assert len(names()) == 6
    for name in names():
        assert len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= MOST_LINES, name


def test_the_homework_in_one_page(script, tiny_folder):
    arguments = tiny_folder, "mock", "cs2881", 16
    printed = script("homework.py", *arguments)
    assert printed.count("Comparison(") == 2
    assert printed.count("Detection(") == 2
    assert script("homework.py", *arguments) == printed  # the adapter is opened, not made again


def test_an_adapter_of_ones_own(script, tiny_folder, tmp_path):
    settings = TrainSettings(epochs=1, warmup=0.0)
    train_adapter(tiny_folder, load_conversations("medical-careless", rows=8), tmp_path / "mine", settings)
    printed = script("own_adapter.py", tmp_path / "mine", tiny_folder, "mock", "cs2881")
    assert "cs2881: EM" in printed
    assert "Comparison(" in printed


def test_a_contrast_of_ones_own_needs_no_training(script, tiny_folder, tmp_path):
    printed = script("own_contrast.py", tiny_folder, tmp_path / "plot.html")
    assert "best_block=" in printed
    assert len(printed.splitlines()) == 4
    assert "plotly" in (tmp_path / "plot.html").read_text(encoding="utf-8")


def test_ablating_and_steering_a_run(script, run):
    printed = script("ablate_and_steer.py", run, "mock")
    assert [line.split()[0] for line in printed.splitlines()] == ["ablate", "subtract", "random", "halved"]


def test_a_server_judges_and_is_asked_once(script, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path / "cache"))
    with FaultyServer({500: 0.05}) as server:
        printed = script("judge_with_a_server.py", tiny_folder, server.url, "openai:any")
        assert max(server.answered.values()) == 1
    assert "from the store: True" in printed
    assert (tmp_path / "judged.parquet").is_file()


def test_a_sweep_of_a_run_and_its_plots(script, run, tmp_path):
    printed = script("sweep_and_plot.py", run, tmp_path / "plots")
    assert "done on this run: sweep" in printed
    assert list((tmp_path / "plots").glob("*.html"))
