"""What a killed process leaves in a folder is neither read nor hashed."""

import pytest

from emscope.files import atomic_path, shown_files, tree_sha256


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
