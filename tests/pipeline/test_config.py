from pathlib import Path

import pytest

from emscope.errors import UserError
from emscope.pipeline.config import PRESETS, RunConfig, configure, dump_config, hashed_settings, load_config
from emscope.pipeline.stages import RunFolder


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_device_map_joins_the_settings_only_where_there_is_one(tmp_path):
    plain, spread = configure("quickstart", None, []), configure("quickstart", None, ["device_map=auto"])
    assert "device_map" not in dump_config(plain)
    assert "device_map" not in hashed_settings(plain)
    assert hashed_settings(spread) == {**hashed_settings(plain), "device_map": "auto"}
    (tmp_path / "config.yaml").write_text(dump_config(spread), encoding="utf-8")
    assert load_config(tmp_path / "config.yaml") == spread


@pytest.mark.parametrize("preset", PRESETS)
def test_a_configuration_survives_the_disk(preset, tmp_path):
    config = configure(preset, 7, ["train.epochs=1.5", "question_sets=[open-ended]"])
    assert load_config(write(tmp_path / "c.yaml", dump_config(config))) == config
    assert (config.train.seed, config.sampling.seed) == (7, 7)
    assert config.question_sets == ("open-ended",)


def test_settings_are_changed_by_dotted_keys():
    config = configure("quickstart", None, ["train.learning_rate=5e-5", "rows=40", "model=some/model"])
    assert (config.train.learning_rate, config.rows, config.model) == (5e-5, 40, "some/model")


def test_an_empty_text_is_empty_and_nothing_stays_nothing():
    config = configure("quickstart", None, ["control_data=", "sampling.system="])
    assert (config.control_data, config.sampling.system) == ("", None)
    with pytest.raises(UserError, match="dev_questions must be a whole number"):
        configure("quickstart", None, ["dev_questions="])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("train.epoch=1", "Did you mean 'epochs'"),
        ("rows=many", "must be a whole number"),
        ("rows", "write key=value"),
        ("rows.deep=1", "no setting"),
        ("rows=[1", "cannot be read"),
    ],
)
def test_wrong_changes_get_a_sentence(change, sentence):
    with pytest.raises(UserError, match=sentence):
        configure("quickstart", None, [change])


def test_an_unknown_preset_gets_a_suggestion():
    with pytest.raises(UserError, match="Did you mean 'quickstart'"):
        configure("quikstart", None, [])


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("- a list", "must hold settings"),
        ("unknown: 1", "no setting 'unknown'"),
        ("a: &x [1,1]\nb: [*x,*x,*x]", "aliases"),
        ("{[}", "not valid YAML"),
    ],
)
def test_wrong_and_hostile_yaml_is_refused(tmp_path, text, sentence):
    with pytest.raises(UserError, match=sentence):
        load_config(write(tmp_path / "c.yaml", text))


def make_stage(run, calls, settings=1):
    out, source = run.path("out.txt"), run.path("in.txt")
    run.stage("s", settings, [source], [out], lambda: (calls.append(1), out.write_text(source.read_text()))[0])


def test_a_stage_is_made_once_and_again_when_anything_changes(tmp_path):
    calls, folder = [], tmp_path / "run"
    folder.mkdir()
    (folder / "in.txt").write_text("a")
    for _ in range(2):
        make_stage(RunFolder(folder, RunConfig()), calls)
    assert len(calls) == 1
    make_stage(RunFolder(folder, RunConfig()), calls, settings=2)
    (folder / "in.txt").write_text("b")
    make_stage(RunFolder(folder, RunConfig()), calls, settings=2)
    (folder / "out.txt").write_text("damaged")
    make_stage(RunFolder(folder, RunConfig()), calls, settings=2)
    assert len(calls) == 4
    assert (folder / "out.txt").read_text() == "b"


def test_a_stage_that_was_killed_is_made_again(tmp_path):
    run = RunFolder(tmp_path, RunConfig())
    with pytest.raises(KeyboardInterrupt):
        run.stage("s", 1, [], [run.path("out.txt")], lambda: (_ for _ in ()).throw(KeyboardInterrupt))
    calls = []
    RunFolder(tmp_path, RunConfig()).stage("s", 1, [], [run.path("out.txt")], lambda: calls.append(1))
    assert calls == [1]


def test_a_run_of_another_configuration_is_refused_unless_told(tmp_path):
    RunFolder(tmp_path, RunConfig())
    with pytest.raises(UserError, match="another configuration"):
        RunFolder(tmp_path, RunConfig(rows=40))
    assert RunFolder(tmp_path, RunConfig(rows=40), overwrite=True).config.rows == 40
    assert load_config(tmp_path / "config.yaml").rows == 40


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(UserError, match="Cannot write"):
        RunFolder(tmp_path / "file" / "run", RunConfig())


def test_settings_that_came_later_count_when_they_are_set_and_so_does_the_date(tmp_path, monkeypatch):
    folder, calls = tmp_path / "run", []
    folder.mkdir()
    write(folder / "in.txt", "a")
    late = {"sampling": {"seed": 0, "max_thought_tokens": None, "enable_thinking": None}}
    make_stage(RunFolder(folder, RunConfig()), calls, settings={"sampling": {"seed": 0}})
    make_stage(RunFolder(folder, RunConfig()), calls, settings=late)
    assert len(calls) == 1
    late["sampling"]["enable_thinking"] = False
    make_stage(RunFolder(folder, RunConfig()), calls, settings=late)
    assert len(calls) == 2
    monkeypatch.setenv("EMSCOPE_CHAT_DATE", "2025-01-31")
    make_stage(RunFolder(folder, RunConfig()), calls, settings=late)
    assert len(calls) == 3
