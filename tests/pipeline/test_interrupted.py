"""Trainings that were killed at the worst moments go on where they were, and lose nothing."""

import dataclasses
from pathlib import Path

import pytest
from safetensors.torch import load_file

from emscope.errors import UserError
from emscope.experiments.dynamics import training as dynamics_training
from emscope.organisms import trainer
from emscope.organisms.checkpoints import checkpoints_of
from emscope.pipeline import training
from emscope.pipeline.config import configure
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder

NAME = "dynamics/all/seed0"


def lab_of(model, out):
    config = configure("quickstart", 0, [f"model={model}", "question_sets=[cs2881]", "rows=8", "train.batch_size=4"])
    return Lab(config, RunFolder(out, config))


def train(lab):
    settings = dataclasses.replace(lab.config.train, save_every=1, epochs=2)
    return dynamics_training.train_with_checkpoints(lab, dynamics_training.Training("all", 0), settings)


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory):
    return train(lab_of(tiny_folder, tmp_path_factory.mktemp("whole")))


def same(found, unbroken):
    assert list(found) == list(unbroken) == [1, 2, 3, 4]
    for step, folder in found.items():
        one, two = (load_file(path / "adapter_model.safetensors") for path in (folder, unbroken[step]))
        assert all(one[name].equal(two[name]) for name in two)
        assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


@pytest.mark.parametrize("survived", [0, 1, 9, 20])
def test_a_stop_while_checkpoints_are_stripped_loses_none(tiny_folder, tmp_path, monkeypatch, unbroken, survived):
    done, real, stripping, strip = [], Path.unlink, [], dynamics_training.keep_adapters

    def keep_adapters(folder):
        stripping.append(folder)
        strip(folder)

    def unlink(path, *rest, **more):
        if stripping and "checkpoint-" in path.parent.name:
            if len(done) == survived:
                raise KeyboardInterrupt
            done.append(path)
        real(path, *rest, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", unlink)
        patch.setattr(dynamics_training, "keep_adapters", keep_adapters)
        with pytest.raises(KeyboardInterrupt):
            train(lab_of(tiny_folder, tmp_path))
    monkeypatch.setattr(dynamics_training, "train_resumably", None)  # nothing is trained again
    same(train(lab_of(tiny_folder, tmp_path)), unbroken)


def test_a_lost_or_damaged_checkpoint_is_trained_again(tiny_folder, tmp_path, unbroken):
    found = train(lab_of(tiny_folder, tmp_path))
    (found[2] / "adapter_model.safetensors").write_bytes(b"damaged")
    (found[3] / "adapter_model.safetensors").unlink()
    same(train(lab_of(tiny_folder, tmp_path)), unbroken)


def test_checkpoints_that_are_not_those_of_the_steps_are_refused(tiny_folder, tmp_path):
    (tmp_path / "organisms" / NAME / "checkpoints").mkdir(parents=True)
    real = training.train_adapter

    def one_more(*given, **more):
        real(*given, **more)
        (given[2] / "checkpoints" / "checkpoint-99").mkdir()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_adapter", one_more)
        with pytest.raises(UserError, match="delete this folder and start again"):
            train(lab_of(tiny_folder, tmp_path))


@pytest.mark.parametrize("n_damaged", [1, 2])
def test_a_stop_while_a_checkpoint_is_written_does_not_block_the_run(tiny_folder, tmp_path, monkeypatch, n_damaged):
    monkeypatch.setattr(trainer, "RESUME_SECONDS", 0.0)
    real, resumed = training.train_adapter, []

    def killed(*given, **more):
        real(*given, **more)
        for checkpoint in list(checkpoints_of(given[2]).values())[-n_damaged:]:  # of two
            (checkpoint / "trainer_state.json").unlink()
        raise KeyboardInterrupt

    def watched(*given, **more):
        resumed.append(more["resume"])
        return real(*given, **more)

    lab = lab_of(tiny_folder, tmp_path)
    monkeypatch.setattr(training, "train_adapter", killed)
    with pytest.raises(KeyboardInterrupt):
        training.train_stage(lab, "misaligned", "medical-careless")
    monkeypatch.setattr(training, "train_adapter", watched)
    training.train_stage(lab, "misaligned", "medical-careless")
    assert resumed == [n_damaged == 1]
    assert not (tmp_path / "organisms" / "misaligned" / "checkpoints").exists()


def test_a_checkpoint_a_minute_is_enough_to_go_on_from_and_two_are_kept(tiny_folder, tmp_path, monkeypatch):
    def run(out, seconds):
        monkeypatch.setattr(trainer, "RESUME_SECONDS", seconds)
        saved = []
        real = trainer.seal
        monkeypatch.setattr(trainer, "seal", lambda folder: (saved.append(folder.name), real(folder)))
        lab = lab_of(tiny_folder, out)
        lab.config = dataclasses.replace(lab.config, train=dataclasses.replace(lab.config.train, epochs=2))
        folder = out / "organisms" / "misaligned"
        training.train_resumably(lab, "misaligned", lab.training_data("medical-careless"), "key")
        monkeypatch.setattr(trainer, "seal", real)
        weights = (folder / "adapter_model.safetensors").read_bytes()
        return saved, sorted(checkpoints_of(folder)), weights, (folder / "metrics.jsonl").read_bytes()

    often, seldom = run(tmp_path / "often", 0.0), run(tmp_path / "seldom", 3600.0)
    assert (often[0], often[1]) == ([f"checkpoint-{step}" for step in (1, 2, 3, 4)], [3, 4])
    assert (seldom[0], seldom[1]) == ([], [])
    assert often[2:] == seldom[2:]
