"""Settings of experiments in a run's configuration: set by name, checked, kept in config.yaml, no part of its key."""

import pytest

from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.experiments import EXPERIMENTS
from emscope.experiments.conduct import configured
from emscope.pipeline.config import configure, dump_config, hashed_settings, load_config, same_run
from emscope.pipeline.stages import RunFolder, as_recorded

CHANGES = ["steer.blocks=[18]", "induce.vector.epochs=0.5", "sweep.options.folds=3", "dynamics.adapters=[rank1]"]


def full(*changes):
    return configure("full", 0, list(changes), experiments=tuple(EXPERIMENTS))


def test_settings_reach_the_experiments_and_the_file_replays_them(tmp_path):
    config = full(*CHANGES)
    settings = configured(config)
    assert settings["steer"].blocks == (18,)
    assert settings["induce"].vector.epochs == 0.5
    assert settings["sweep"].options.folds == 3
    assert settings["sweep"].ablate  # as a part of everything
    assert settings["dynamics"].adapters == ("rank1",)
    (tmp_path / "config.yaml").write_text(dump_config(config), encoding="utf-8")
    assert configured(load_config(tmp_path / "config.yaml")) == settings


def test_they_change_no_stage_of_the_run_itself_and_nothing_is_written_without_them():
    assert same_run(full(*CHANGES), full())
    assert hashed_settings(full(*CHANGES)) == hashed_settings(full())
    assert "experiments" not in dump_config(full())


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("stear.blocks=[1]", "Did you mean 'steer'"),
        ("steer.blokcs=[1]", "Did you mean 'blocks'"),
        ("steer.blocks=soon", "steer: blocks"),
        ("steer.levels=[0]", "Levels must be above 0"),
        ("dynamics.adapters=[most]", "dynamics: adapters"),
    ],
)
def test_what_is_typed_wrong_is_said_before_anything_begins(change, sentence, tmp_path, capsys):
    assert run_command(["run", "--preset", "full", "--out", str(tmp_path / "run"), "--set", change]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_the_main_job_alone_takes_none():
    with pytest.raises(UserError, match="steer is an experiment, and the preset quickstart does the main job alone"):
        configure("quickstart", 0, ["steer.blocks=[18]"], experiments=tuple(EXPERIMENTS))


def test_a_run_that_is_there_takes_other_ones_and_keeps_them(tmp_path, tiny_folder):
    base = [f"model={tiny_folder}", "question_sets=[cs2881]"]
    RunFolder(tmp_path, full(*base))
    asked = as_recorded(tmp_path, full(*base, *CHANGES))
    RunFolder(tmp_path, asked).keep_experiments()
    assert load_config(tmp_path / "config.yaml").experiments["steer"] == {"blocks": [18]}
    RunFolder(tmp_path, full(*base, "steer.blocks=[3]"))  # the same run: it is not refused
