"""What stands behind a model's name: it changes when the files do, and only then."""

import json
import os
import shutil
from pathlib import Path

import pytest

from emscope.errors import UserError
from emscope.organisms import fingerprint as module
from emscope.organisms.embedded import EMBEDDED_ALIAS, GGUF_SHA256
from emscope.organisms.fingerprint import earlier_fingerprint, fingerprint


@pytest.fixture
def model(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "_read_here", {})
    return tmp_path / "cache"


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_other_contents_are_another_model_even_with_the_same_size_and_time(model, file):
    before = fingerprint(str(model))
    assert before == fingerprint(str(model))
    assert before.startswith("files@")
    data, time = (model / file).read_bytes(), (model / file).stat().st_mtime_ns
    (model / file).write_bytes(data[:-1] + b"!")
    os.utime(model / file, ns=(time, time))
    assert earlier_fingerprint(str(model)) == earlier_fingerprint(str(model))
    for checked in (False, True):
        assert fingerprint(str(model), checked=checked) != before
    (model / file).write_bytes(data)
    os.utime(model / file, ns=(1, 1))
    assert fingerprint(str(model)) == before


def test_a_copy_and_a_moved_model_are_the_same_one(model, tmp_path):
    before = fingerprint(str(model))
    shutil.copytree(model, tmp_path / "copy")
    for path in (tmp_path / "copy").iterdir():
        os.utime(path, ns=(7, 7))
    assert fingerprint(str(tmp_path / "copy")) == before
    model.rename(tmp_path / "moved")
    (tmp_path / "link").symlink_to(tmp_path / "moved")
    assert fingerprint(str(tmp_path / "moved")) == fingerprint(str(tmp_path / "link")) == before


def test_a_known_hash_is_not_read_again_unless_asked_for(model, monkeypatch, cache):
    monkeypatch.setattr(module, "SETTLED_NS", -(10**18))
    before, read = fingerprint(str(model)), []
    real = module.file_sha256
    monkeypatch.setattr(module, "file_sha256", lambda path: read.append(path.name) or real(path))
    assert fingerprint(str(model), checked=True) == before
    assert read == []  # read once in this process
    monkeypatch.setattr(module, "_read_here", {})
    assert fingerprint(str(model)) == before
    assert read == []  # known to the cache
    assert fingerprint(str(model), checked=True) == before
    assert "model.safetensors" in read
    for note in (cache / "hashes").iterdir():
        note.write_text("[")
    monkeypatch.setattr(module, "_read_here", {})
    assert fingerprint(str(model)) == before


def test_a_file_that_was_just_changed_is_not_known_for_good(model):
    fingerprint(str(model))
    assert module._read_here == {}


def test_earlier_versions_knew_names_sizes_and_times(model):
    before = earlier_fingerprint(str(model))
    assert before.startswith(f"{model}@")
    os.utime(model / "config.json", ns=(1, 1))
    assert earlier_fingerprint(str(model)) != before
    assert earlier_fingerprint(EMBEDDED_ALIAS) == fingerprint(EMBEDDED_ALIAS)


def test_an_adapter_that_is_its_own_base_is_refused(tmp_path):
    for name, base in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_config.json").write_text(
            json.dumps({"base_model_name_or_path": str(tmp_path / base)})
        )
    with pytest.raises(UserError, match="put on itself"):
        fingerprint(str(tmp_path / "a"))


def test_logs_and_hidden_files_beside_a_model_do_not_matter(model):
    before = fingerprint(str(model))
    for name in ("metrics.jsonl", "lineage.json", "README.md", ".lock.json"):
        (model / name).write_text("new")
    assert fingerprint(str(model)) == before


def test_an_adapter_changes_with_its_base(model, tmp_path):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(model)}))
    before = fingerprint(str(adapter))
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert fingerprint(str(adapter)) == before
    (model / "model.safetensors").write_bytes(b"other")
    assert fingerprint(str(adapter)) != before


def test_a_gguf_file_is_known_by_its_state(tmp_path):
    file = tmp_path / "model.gguf"
    file.write_bytes(b"one")
    before = fingerprint(str(file))
    file.write_bytes(b"three")
    assert fingerprint(str(file)) != before


def test_the_embedded_model_has_its_own_hash():
    assert fingerprint(EMBEDDED_ALIAS) == f"{EMBEDDED_ALIAS}@{GGUF_SHA256[:12]}"


def test_a_hub_model_is_known_by_the_commit_in_the_cache_and_an_unknown_name_by_itself(tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    cached = tmp_path / "models--some--model"
    for folder in ("refs", "snapshots/abc"):
        (cached / folder).mkdir(parents=True)
    (cached / "refs" / "main").write_text("abc")
    (cached / "snapshots" / "abc" / "config.json").write_text("{}")
    assert fingerprint("some/model") == "some/model@abc"
    for name in ("some/model@v2", "other/model", "no-such-model", "a/b/c"):
        assert fingerprint(name) == name
