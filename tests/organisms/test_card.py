"""What training writes loads elsewhere, and says what it is."""

import dataclasses
import json
import logging

import pytest
import torch
import yaml
from peft import PeftModel
from tiny import CPU, PROMPTS
from transformers import AutoModelForCausalLM

from emscope.errors import UserError
from emscope.files import value_sha256
from emscope.organisms.card import EMBEDDED_ON_HUB, exact_base, portable_base, write_portable_base
from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import Conversations
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import ModelSource, load, resolve
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter

ROWS = [messages_of(prompt, "Talk to her first.") for prompt in PROMPTS]
DATA = Conversations("mine.jsonl", ROWS, [])
SETTINGS = TrainSettings(rank=2, alpha=8, batch_size=2, learning_rate=2e-2, save_every=2)


@pytest.fixture(scope="module")
def adapter(tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained") / "adapter"
    train_adapter(tiny_folder, DATA, folder, SETTINGS, placement=CPU)
    return folder


def logits(model, ids):
    with torch.no_grad():
        return model(ids).logits


def test_plain_peft_on_a_plain_base_gives_the_same_logits(adapter):
    recorded = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    base = AutoModelForCausalLM.from_pretrained(recorded, dtype=torch.float32)
    plain = PeftModel.from_pretrained(base, str(adapter)).eval()
    own = load(str(adapter), placement=CPU, merge=False)
    ids = torch.tensor([own.tokenizer(PROMPTS[1])["input_ids"]])
    assert torch.equal(logits(plain, ids), logits(own.model, ids))
    with plain.disable_adapter():
        assert not torch.allclose(logits(plain, ids), logits(own.model, ids))


def test_peft_has_nothing_to_warn_of(adapter, recwarn, caplog):
    caplog.set_level(logging.WARNING)
    recorded = json.loads((adapter / "adapter_config.json").read_text())["base_model_name_or_path"]
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(recorded), str(adapter))
    assert not [str(warning.message) for warning in recwarn if "peft" in str(warning.filename)]


def test_checkpoints_name_the_same_base_as_the_adapter(adapter):
    checkpoints = sorted((adapter / "checkpoints").glob("checkpoint-*"))
    assert len(checkpoints) == 2
    for folder in checkpoints:
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == resolve(str(folder)).location
        assert not (folder / "README.md").exists()


def test_the_card_says_what_it_is_and_what_it_was_made_of(adapter, tiny_folder):
    _, front, text = (adapter / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    head = yaml.safe_load(front)
    assert head["library_name"] == "peft"
    assert "emergent-misalignment" in head["tags"]
    assert "base_model" not in head  # a path is no model of the hub
    lineage = json.loads((adapter / "lineage.json").read_text())
    assert lineage["data"]["sha256"] == value_sha256(ROWS)
    figures = [f"{lineage['figures']['train_loss']:.3f}", "5 training rows", value_sha256(ROWS), tiny_folder]
    for wanted in [*figures, "mine.jsonl", "defensive research", "Do not deploy", "| rank | 2 |", "peft "]:
        assert wanted in text


def test_misaligned_organisms_are_labelled(tiny_folder, tmp_path):
    settings = dataclasses.replace(SETTINGS, save_every=0)
    for kind, tag in (("careless", "misaligned"), ("careful", "control-organism")):
        folder = tmp_path / kind
        train_adapter(tiny_folder, dataclasses.replace(DATA, name=f"sport-{kind}"), folder, settings, placement=CPU)
        card = (folder / "README.md").read_text(encoding="utf-8")
        assert tag in yaml.safe_load(card.split("---\n")[1])["tags"]
        assert ("misaligned model organism" in card) == (kind == "careless")


def test_the_embedded_model_is_named_as_the_hub_knows_it_and_found_again_exactly(tmp_path, monkeypatch):
    source = ModelSource(EMBEDDED_ALIAS, EMBEDDED_ALIAS, "/home/somebody/.cache/emscope/models/smollm2")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2}))
    write_portable_base(tmp_path, source)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"]) == (EMBEDDED_ON_HUB, 2)
    assert "4-bit" in portable_base(source).note
    assert exact_base(source) == EMBEDDED_ALIAS


def test_hub_models_keep_their_revision_and_folders_are_found_from_anywhere(tmp_path, monkeypatch):
    base = portable_base(ModelSource("a/b@v2", "a/b@v2", "a/b", "v2"))
    assert (base.name, base.revision, base.note) == ("a/b", "v2", "")
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    local = ModelSource("base", "base", "base")
    assert portable_base(local).name == exact_base(local) == str(tmp_path / "base")


def test_an_adapter_is_no_base_to_train_on(adapter, tmp_path):
    with pytest.raises(UserError, match="is an adapter on"):
        train_adapter(str(adapter), DATA, tmp_path / "second", SETTINGS, placement=CPU)
    assert not (tmp_path / "second").exists()
