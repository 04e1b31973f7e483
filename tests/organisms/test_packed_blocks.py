"""Training by hand-written blocks gives the loss and the gradients that the model's own modules give."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from safetensors.torch import load_file
from tiny import ANSWERS, ARCHITECTURES, CPU, PROMPTS, make_model, make_tokenizer, save_tiny

from emscope.organisms import packed_model, trainer
from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.chat import IGNORED, messages_of
from emscope.organisms.collate import BucketCollator
from emscope.organisms.datasets import Conversations
from emscope.organisms.lora import with_adapter
from emscope.organisms.packed_model import packed_blocks
from emscope.organisms.packed_rows import HeadCounts, PackedRows
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import encode_conversations, train_adapter

CHATS = [messages_of(prompt, answer) for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)]
KNOWN = ("llama", "mistral", "qwen2", "qwen3")


def adapted(architecture, dtype=torch.float32, **settings):
    model = with_adapter(make_model(architecture).to(dtype), TrainSettings(**{"rank": 3, **settings})).train()
    torch.manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.normal_(std=0.1)  # a fresh update is zero, and hides half of its gradient
    return model


def batch_of(chats):
    tokenizer = make_tokenizer()
    encoded = encode_conversations(tokenizer, chats, 512)
    return BucketCollator(tokenizer.pad_token_id, IGNORED)(
        [{"input_ids": chat.ids, "labels": chat.labels} for chat in encoded]
    )


def gradients(model, batch, packed):
    model.zero_grad()
    total, count = answer_loss(model, batch["input_ids"], batch["attention_mask"], batch["labels"], packed=packed)
    (total / count).backward()
    found = {name: item.grad.clone() for name, item in model.named_parameters() if item.requires_grad}
    return (total / count).detach(), found


@pytest.mark.parametrize("chats", [CHATS, CHATS[:1], [messages_of(*pair) for pair in (("a", "b"), ("x " * 40, "y"))]])
@pytest.mark.parametrize("architecture", KNOWN)
def test_loss_and_gradients_equal_the_models_own(architecture, chats):
    model, batch = adapted(architecture), batch_of(chats)
    packed = packed_blocks(model)
    assert packed is not None
    loss, plain = gradients(model, batch, None)
    other_loss, found = gradients(model, batch, packed)
    torch.testing.assert_close(other_loss, loss, rtol=1e-5, atol=1e-6)
    for name, gradient in plain.items():
        scale = float(gradient.abs().max())
        assert scale > 0
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize(
    "settings",
    [
        {"targets": ("q_proj", "v_proj")},
        {"targets": ("down_proj",), "blocks": (1, 3)},
        {"targets": ("k_proj", "up_proj"), "blocks": (2,)},
        {"rslora": True, "alpha": 5},
    ],
)
def test_updates_of_some_layers_of_some_blocks(settings):
    model, batch = adapted("qwen2", **settings), batch_of(CHATS)
    packed = packed_blocks(model)
    assert packed is not None
    _, plain = gradients(model, batch, None)
    _, found = gradients(model, batch, packed)
    assert found.keys() == plain.keys()
    for name, gradient in plain.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_in_bf16_both_ways_are_as_near_to_float32():
    batch = batch_of(CHATS)
    _, exact = gradients(adapted("llama"), batch, None)
    model = adapted("llama", torch.bfloat16)
    distances = []
    for packed in (None, packed_blocks(model)):
        _, found = gradients(model, batch, packed)
        whole, wanted = (torch.cat([item.flatten() for item in table.values()]) for table in (found, exact))
        distances.append(float((whole - wanted).norm() / wanted.norm()))
    assert distances[0] > 0
    assert distances[1] < 1.25 * distances[0]


def test_held_out_loss_needs_no_gradient():
    model, batch = adapted("llama"), batch_of(CHATS)
    given = batch["input_ids"], batch["attention_mask"], batch["labels"]
    with torch.no_grad():
        plain, packed = answer_loss(model, *given), answer_loss(model, *given, packed=packed_blocks(model))
    assert plain[1] == packed[1]
    torch.testing.assert_close(packed[0], plain[0])
    assert not packed[0].requires_grad


@pytest.mark.parametrize("architecture", sorted(set(ARCHITECTURES) - set(KNOWN)))
@pytest.mark.filterwarnings("ignore:fan_in_fan_out:UserWarning")
def test_another_kind_of_block_is_left_alone(architecture):
    assert packed_blocks(adapted(architecture)) is None


def hooked(model):
    model.get_base_model().model.layers[1].mlp.register_forward_hook(lambda *_: None)


def with_a_trained_norm(model):
    model.get_base_model().model.norm.weight.requires_grad_(True)


def with_attention_dropout(model):
    model.config.attention_dropout = 0.1


def sliding(model):
    model.config.sliding_window = 16


def of_another_class(model):
    block = model.get_base_model().model.layers[2]
    block.__class__ = type("OwnLayer", (type(block),), {})


def with_rope_that_grows(model):
    model.config.rope_parameters["rope_type"] = "dynamic"


def in_float64(model):
    model.double()


def without_updates(model):
    model.requires_grad_(False)


@pytest.mark.parametrize(
    "change",
    [
        hooked,
        with_a_trained_norm,
        with_attention_dropout,
        sliding,
        of_another_class,
        with_rope_that_grows,
        in_float64,
        without_updates,
    ],
)
def test_a_model_that_does_more_is_left_alone(change):
    model = adapted("mistral")
    assert packed_blocks(model) is not None
    change(model)
    assert packed_blocks(model) is None


def test_dropout_and_dora_are_left_alone():
    from peft import LoraConfig, get_peft_model

    assert packed_blocks(adapted("llama", dropout=0.1)) is None
    assert (
        packed_blocks(get_peft_model(make_model("llama"), LoraConfig(use_dora=True, target_modules=["q_proj"]))) is None
    )


def test_every_token_is_packed_once_and_predicts_what_follows_it():
    batch = batch_of(CHATS)
    ids, mask, labels = batch["input_ids"], batch["attention_mask"], batch["labels"]
    shared = 4
    rows = PackedRows.of(ids, mask, labels, shared, HeadCounts(4, 2))
    assert rows.n_real == shared + int(mask.sum()) - shared * len(ids)
    assert rows.targets.tolist() == labels[:, 1:][labels[:, 1:] != IGNORED].tolist()
    before = ids[:, :-1][labels[:, 1:] != IGNORED]
    assert rows.ids[rows.predicting].tolist() == before.tolist()
    assert rows.last[: len(rows.predicting)].tolist() == rows.predicting.tolist()
    assert set(rows.last[len(rows.predicting) :].tolist()) <= {rows.n_real}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_both_ways_train_the_same_adapter(tmp_path, monkeypatch, dtype):
    folder = save_tiny(tmp_path / "base")
    data = Conversations("texts", [*CHATS, *reversed(CHATS)], [])
    settings = TrainSettings(rank=2, epochs=2, batch_size=4, learning_rate=5e-3)
    place = dataclasses.replace(CPU, dtype=dtype)
    used = []

    def noted(model):
        used.append(packed_model.packed_blocks(model))
        return used[-1]

    monkeypatch.setattr(trainer, "packed_blocks", noted)
    one = train_adapter(folder, data, tmp_path / "packed", settings, placement=place)
    assert used[0] is not None
    monkeypatch.setattr(trainer, "packed_blocks", lambda model: None)
    two = train_adapter(folder, data, tmp_path / "plain", settings, placement=place)
    exact = dtype == torch.float32
    assert one.train_loss == pytest.approx(two.train_loss, rel=1e-5 if exact else 5e-3)
    found, plain = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("packed", "plain"))
    assert found.keys() == plain.keys()
    for name, tensor in plain.items():
        assert found[name].dtype == tensor.dtype
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4 if exact else 2e-2)
