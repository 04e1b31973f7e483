"""A run is made again where what it stands on has changed, and what others left in its folder does not disturb it."""

import json
import os
import shutil

import pytest
from tiny_run import arguments

from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.experiments import shape
from emscope.experiments.sweep.measure import SweepSettings
from emscope.pipeline.config import RunConfig, configure
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import RunFolder


def test_a_run_is_replaced_by_one_without_a_control(run, tiny_folder):
    left = run / "directions" / ".model-last-probe.safetensors.ab12.safetensors"
    left.write_bytes(b"")
    assert run_command(arguments(run, "--overwrite", "--set", "control_data=", model=tiny_folder)) == 0
    names = {path.name for path in (run / "directions").iterdir()}
    assert not any("control" in name for name in names)
    assert len(names) == 9
    assert "control" not in json.loads((run / "summary.json").read_text())["em_rate"]


def calls_of(base, out, changes=()):
    """Open a run anew, ask for one stage and one experiment, and return what had to be made."""
    config = configure(RunConfig(model=str(base), question_sets=("cs2881",), dev_questions=2), 0, list(changes))
    lab = Lab(config, RunFolder(out, config, overwrite=True))
    lab.folder.stage("s", 1, [], [], lambda: None)
    shape.experiment_stage(lab, "sweep", dict, SweepSettings(), [], dict)
    return lab.folder.made


def test_new_weights_under_the_same_name_are_noticed(tiny_folder, tmp_path):
    base = shutil.copytree(tiny_folder, tmp_path / "base")
    assert calls_of(base, tmp_path / "run") == ["s", "sweep"]
    assert calls_of(base, tmp_path / "run") == []
    weights = base / "model.safetensors"
    data, time = weights.read_bytes(), weights.stat().st_mtime_ns
    weights.write_bytes(data[:-4] + b"0000")
    os.utime(weights, ns=(time, time))
    assert calls_of(base, tmp_path / "run") == ["s", "sweep"]
    weights.write_bytes(data)
    assert calls_of(base, tmp_path / "run") == ["s", "sweep"]
    os.utime(weights, ns=(1, 1))
    assert calls_of(base, tmp_path / "run") == []


def test_an_experiment_is_made_again_when_the_split_of_the_questions_changes(tiny_folder, tmp_path):
    calls_of(tiny_folder, tmp_path)
    assert calls_of(tiny_folder, tmp_path) == []
    assert calls_of(tiny_folder, tmp_path, ["dev_questions=3"]) == ["sweep"]
    assert calls_of(tiny_folder, tmp_path, ["question_sets=[cs2881, open-ended]"]) == ["sweep"]


def test_figures_of_another_configuration_are_not_shown_as_this_ones(tmp_path):
    RunFolder(tmp_path, RunConfig())
    figures = tmp_path / "experiments" / "sweep.json"
    figures.parent.mkdir()
    figures.write_text("{}")
    RunFolder(tmp_path, RunConfig(), overwrite=True)
    assert figures.is_file()
    with pytest.raises(UserError, match="another configuration"):
        RunFolder(tmp_path, RunConfig(seed=1))
    assert figures.is_file()
    RunFolder(tmp_path, RunConfig(seed=1), overwrite=True)
    assert not figures.exists()
    (tmp_path / "config.yaml").write_text("rows: [")
    RunFolder(tmp_path, RunConfig(seed=1), overwrite=True)


def test_two_commands_on_one_run_keep_each_others_stages(tmp_path):
    one, two = (RunFolder(tmp_path, RunConfig()) for _ in range(2))
    for name, folder in (("a", one), ("b", two), ("c", one)):
        folder.stage(name, 1, [], [], lambda: None)
    assert set(RunFolder(tmp_path, RunConfig()).record.stages) == {"a", "b", "c"}
