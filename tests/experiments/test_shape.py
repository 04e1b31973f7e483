"""Opening a run to read it leaves every file as it is."""

import pytest

from emscope.errors import UserError
from emscope.experiments.shape import open_run
from emscope.files import write_json, write_text
from emscope.pipeline.config import RunConfig, dump_config
from emscope.pipeline.stages import RunFolder


def state(folder):
    files = [folder, *folder.rglob("*")]
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in files}


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path, RunConfig())
    run.stage("made", 1, [], [], lambda: None)
    write_json(tmp_path / "summary.json", {})
    return tmp_path


IN_OTHER_WORDS = {
    "as it was written": lambda text: text,
    "with a note": lambda text: f"# tried on Monday\n{text}",
    "left open": lambda text: "model: smollm2-135m\n",
    "with a base": lambda text: dump_config(RunConfig(model="somewhere/else", base="smollm2-135m")),
}


@pytest.mark.parametrize("change", IN_OTHER_WORDS.values(), ids=IN_OTHER_WORDS)
def test_an_opened_runs_files_keep_their_bytes_and_times(folder, change):
    config = folder / "config.yaml"
    write_text(config, change(config.read_text(encoding="utf-8")))
    before = state(folder)
    lab = open_run(folder)
    lab.folder.stage("made", 1, [], [], lambda: None)
    assert lab.folder.reused == ["made"]
    assert state(folder) == before


def test_what_is_made_in_an_opened_run_leaves_its_configuration(folder):
    config = folder / "config.yaml"
    write_text(config, "model: smollm2-135m\n")
    before = config.read_bytes()
    lab = open_run(folder)
    lab.folder.stage("more", 1, [], [], lambda: None)
    assert lab.folder.made == ["more"]
    assert config.read_bytes() == before


def test_a_folder_without_a_finished_run_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="no finished run"):
        open_run(tmp_path)
