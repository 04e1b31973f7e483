"""What stands behind a model's name: it changes when the files do, and only then."""

import json
import os
import shutil
from pathlib import Path

import pytest

from emscope.organisms.embedded import EMBEDDED_ALIAS, GGUF_SHA256
from emscope.organisms.fingerprint import fingerprint


@pytest.fixture
def model(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_folder_with_other_files_is_another_model(model, file):
    before = fingerprint(str(model))
    assert before == fingerprint(str(model))
    assert before.startswith(f"{model}@")
    data, time = (model / file).read_bytes(), (model / file).stat().st_mtime_ns
    (model / file).write_bytes(data + b" ")
    os.utime(model / file, ns=(time, time))
    longer = fingerprint(str(model))
    (model / file).write_bytes(data)
    os.utime(model / file, ns=(time + 1, time + 1))
    newer = fingerprint(str(model))
    assert len({before, longer, newer}) == 3
    os.utime(model / file, ns=(time, time))
    assert fingerprint(str(model)) == before


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
