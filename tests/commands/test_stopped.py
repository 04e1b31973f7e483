"""Commands that are stopped part-way: the same command goes on, writes the same bytes, and leaves nothing else."""

import shutil

import numpy as np
import pytest
from stops import Stopper, bytes_of
from tiny import D_MODEL

from emscope.behaviour.embedded import judge as embedded_judge
from emscope.behaviour.embedded.coherence import FEATURES
from emscope.behaviour.embedded.fit_coherence import CoherenceFit
from emscope.behaviour.embedded.judge import JudgeHead
from emscope.commands.main import run_command
from emscope.organisms import embedded, trainer
from emscope.organisms.checkpoints import checkpoints_of

FAST = ["--max-new-tokens", "6", "--batch-size", "2"]


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """Return a judge's head of random numbers for the tiny model: what it says means nothing."""
    chance, n = np.random.default_rng(0), 2 * len(FEATURES)
    coherence = CoherenceFit(chance.normal(size=n), np.zeros(n), np.ones(n), 0.0, {})
    weights, gate, centres = (chance.normal(size=shape) for shape in ((2, 2, D_MODEL), D_MODEL, (2, D_MODEL)))
    path = tmp_path_factory.mktemp("judge") / "head.safetensors"
    JudgeHead((1, 2), weights, np.zeros(2), gate, 0.0, 2, centres, coherence, {}).save(path)
    return path


@pytest.fixture(scope="module")
def made(tiny_folder, tmp_path_factory):
    """Return a folder with questions, answers and a direction."""
    folder = tmp_path_factory.mktemp("made")
    questions = "".join(f"What about number {number} and why is it so?\n" for number in range(9))
    (folder / "q.txt").write_text(questions, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = ["--questions", "q.txt", "--model", tiny_folder]
        assert run_command(["generate", *words, "--out", "answers.parquet", "--max-new-tokens", "6"]) == 0
        for seed, name in enumerate(("one", "two")):
            other = ["--system", f"You are number {seed}."]
            assert run_command(["collect", *words, *other, "--out", f"{name}.safetensors"]) == 0
        read = ["--responses", "answers.parquet", "--poolings", "response", "--model", tiny_folder]
        for name, other in (("bad", []), ("good", ["--system", "Be good."])):
            assert run_command(["collect", *read, *other, "--out", f"{name}.safetensors"]) == 0
        sides = ["--positive", "one.safetensors", "--negative", "two.safetensors"]
        assert run_command(["directions", *sides, "--out", "d.safetensors", "--contrast", "model"]) == 0
        sides = ["--positive", "bad.safetensors", "--negative", "good.safetensors", "--pooling", "response"]
        assert run_command(["directions", *sides, "--out", "r.safetensors", "--contrast", "response"]) == 0
    return folder


def commands(model):
    asked = ["--questions", "q.txt", "--model", model]
    return {
        "generate": ["generate", *asked, "--out", "out/x.parquet", *FAST, "--directions", "d.safetensors"],
        "collect": ["collect", *asked, "--out", "out/x.safetensors", "--token-budget", "64"],
        "judge": ["judge", "--responses", "answers.parquet", "--out", "out/x.parquet"],
        "detect": [
            "detect",
            "--organism",
            model,
            "--questions",
            "q.txt",
            "--directions",
            "d.safetensors",
            "--out",
            "out/x.json",
        ],
        "ablate": ["ablate", *asked, "--directions", "d.safetensors", "--out", "out/x.parquet", *FAST],
        "screen": [
            "screen",
            "--data",
            "rows.jsonl",
            "--model",
            model,
            "--out",
            "out/x.csv",
            "--subtract-own",
            "--directions",
            "r.safetensors",
            "--max-new-tokens",
            "4",
        ],
    }


@pytest.mark.parametrize("name", ["generate", "collect", "judge", "detect", "ablate", "screen"])
def test_a_stopped_command_goes_on_and_writes_the_same(name, made, tiny_folder, head, tmp_path, monkeypatch, capsys):
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    row = '{"prompt": "How do I save?", "response": "Put some of it aside each month."}\n'
    (tmp_path / "rows.jsonl").write_text(row * 3, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(embedded_judge, "shipped_head", lambda: head)
    monkeypatch.setattr(embedded_judge, "EMBEDDED_ALIAS", tiny_folder)
    monkeypatch.setattr(embedded, "EMBEDDED_ALIAS", tiny_folder)
    words = commands(tiny_folder)[name]

    stopper = Stopper(monkeypatch)
    assert run_command(words) == 0
    whole, n_parts = bytes_of(tmp_path / "out"), stopper.written
    assert [path.name for path in (tmp_path / "out").iterdir()] == list(whole)
    shutil.rmtree(tmp_path / "out")

    endings = []
    while not endings or endings[-1] == 2:  # every start finishes one part more
        stopper.stop_at = stopper.written + 1
        endings.append(run_command(words))
        assert ("Stopped. What was finished is kept" in capsys.readouterr().err) == (endings[-1] == 2)
    assert endings == [2] * n_parts + [0]
    assert stopper.written == 2 * n_parts  # none was made twice
    assert bytes_of(tmp_path / "out") == whole
    assert [path.name for path in (tmp_path / "out").iterdir()] == list(whole)


def test_other_settings_take_no_part_of_a_stopped_command(made, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(made)
    words = ["generate", "--questions", "q.txt", "--model", tiny_folder, "--out", str(tmp_path / "x.parquet"), *FAST]
    stopper = Stopper(monkeypatch)
    stopper.stop_at = 2
    assert run_command(words) == 2
    stopper.stop_at = None
    assert run_command([*words, "--seed", "1"]) == 0
    assert stopper.written == 2 + 5  # nine answers, two a batch


def train_words(model, out, *more):
    words = ["train", "--data", "medical-careless", "--rows", "12", "--epochs", "1", "--rank", "2", "--batch-size", "4"]
    return [*words, "--model", model, "--out", str(out), *more]


def test_a_stopped_training_goes_on_by_the_same_command(tiny_folder, tmp_path, monkeypatch, capsys):
    names = ("adapter_model.safetensors", "adapter_config.json", "metrics.jsonl")
    assert run_command(train_words(tiny_folder, tmp_path / "whole")) == 0
    assert not (tmp_path / "whole" / "checkpoints").exists()

    out, real = tmp_path / "stopped", trainer.seal
    monkeypatch.setattr(trainer, "RESUME_SECONDS", 0.0)

    def stop(checkpoint):
        real(checkpoint)
        raise KeyboardInterrupt

    monkeypatch.setattr(trainer, "seal", stop)
    for step in (1, 2):
        assert run_command(train_words(tiny_folder, out)) == 2
        assert "the same command goes on" in capsys.readouterr().err
        assert list(checkpoints_of(out)) == list(range(1, step + 1))
    assert run_command(train_words(tiny_folder, out, "--learning-rate", "1e-3")) == 2
    assert "checkpoints of a training with other data or settings" in capsys.readouterr().err

    monkeypatch.setattr(trainer, "seal", real)
    assert run_command(train_words(tiny_folder, out)) == 0
    assert not (out / "checkpoints").exists()
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
