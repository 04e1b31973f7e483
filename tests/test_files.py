"""Files are written whole and may be read by whom the umask lets; what a killed process leaves does not count."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from emscope.files import atomic_path, open_to_others, shown_files, tree_sha256, write_json, write_rows
from emscope.tensors import save_tensors


def test_a_temporary_file_has_no_suffix_that_anyone_looks_for(tmp_path):
    with atomic_path(tmp_path / "a.safetensors") as temporary:
        assert not list(tmp_path.glob("*.safetensors"))
        temporary.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


@pytest.mark.parametrize("left", [".a.safetensors.ab12.safetensors", ".a.tmp", "inner/.b.safetensors", ".hidden/c"])
def test_hidden_files_do_not_count(tmp_path, left):
    folder = tmp_path / ".run" / "directions"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.safetensors").write_text("whole")
    before = tree_sha256(folder)
    (folder / left).parent.mkdir(exist_ok=True)
    (folder / left).write_bytes(b"")
    assert tree_sha256(folder) == before
    assert [path.name for path in shown_files(folder, "*.safetensors")] == ["a.safetensors"]
    (folder / "inner" / "d").write_text("new")
    assert tree_sha256(folder) != before


@pytest.fixture(params=[0o022, 0o077, 0o002], ids=oct)
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_files_and_folders_get_the_permissions_of_the_umask(umask, tmp_path):
    folder = tmp_path / "new"
    write_json(folder / "inner" / "a.json", {})
    write_rows(folder / "a.parquet", [{"a": 1}])
    write_rows(folder / "a.csv", [{"a": 1}])
    save_tensors(folder / "a.safetensors", {"a": np.zeros(2)}, {})
    (folder / "library").mkdir()
    save_file({"a": torch.zeros(2)}, folder / "library" / "model.safetensors")
    open_to_others(folder / "library")

    written = list(folder.rglob("*"))
    assert len(written) == 7
    for path in [folder, *written]:
        asked = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == asked & ~umask, path.name


def test_a_file_that_is_written_again_keeps_no_old_permissions(umask, tmp_path):
    path = tmp_path / "a.json"
    path.touch(mode=0o600)
    write_json(path, {})
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
