import dataclasses
import json
import re

import pytest
import torch
from safetensors.torch import load_file
from tiny import CPU, PROMPTS, make_model, make_organism, make_tokenizer

from emscope.errors import UserError
from emscope.organisms.answer_loss import _shared_untrained, answer_loss, row_losses
from emscope.organisms.chat import IGNORED, messages_of
from emscope.organisms.collate import BucketCollator, BucketSampler
from emscope.organisms.datasets import Conversations
from emscope.organisms.models import load, resolve
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import encode_conversations, train_adapter, train_loaded

TEXTS = [messages_of(f"{prompt} {n}", "Put some of it aside, then rest.") for n in range(4) for prompt in PROMPTS[:3]]
DATA = Conversations("texts", TEXTS[:10], TEXTS[10:])
FAST = TrainSettings(rank=2, epochs=2, batch_size=4, learning_rate=5e-3)


def test_no_prompt_token_is_trained_and_every_example_has_one_that_is():
    tokenizer = make_tokenizer()
    for chat in encode_conversations(tokenizer, TEXTS, 512):
        trained = [label for label in chat.labels if label != IGNORED]
        assert tokenizer.decode(trained) == "Put some of it aside, then rest.<|end|>"


def test_an_example_with_no_trained_token_is_an_error():
    with pytest.raises(UserError, match=r"begins with '.+' has no assistant token among its first 5"):
        encode_conversations(make_tokenizer(), TEXTS, 5)


def test_answers_that_are_cut_are_counted(caplog):
    whole = encode_conversations(make_tokenizer(), TEXTS, 512)
    assert not caplog.records
    n = max(chat.answer_positions[-1] for chat in whole)  # one token fewer than the longest answer needs
    encode_conversations(make_tokenizer(), TEXTS, int(n))
    assert re.search(rf"[1-9]\d* of {len(TEXTS)} conversations go on after {n} tokens", caplog.text)


@pytest.mark.parametrize("wrong", [{"schedule": "x"}, {"report_to": ("x",)}])
def test_an_unknown_schedule_or_tracker_is_refused(tmp_path, wrong):
    data = Conversations("a", [messages_of("a", "b")], [])
    with pytest.raises(UserError, match=r"There is no (schedule|tracker) 'x'"):
        train_loaded(make_organism(), data, tmp_path / "a", TrainSettings(**wrong))


def test_batches_are_padded_to_a_rounded_length_with_ignored_labels():
    rows = [{"input_ids": [1] * n, "labels": [IGNORED, *[1] * (n - 1)]} for n in (5, 19)]
    batch = BucketCollator(0, IGNORED)(rows)
    assert batch["input_ids"].shape == (2, 24)
    assert (batch["labels"][batch["attention_mask"] == 0] == IGNORED).all()
    assert (batch["labels"] != IGNORED).sum() == 4 + 18


def test_batches_hold_similar_lengths_and_every_row_once():
    lengths = torch.randint(1, 200, (103,), generator=torch.Generator().manual_seed(0)).tolist()
    sampler = BucketSampler(lengths, 4, seed=1)
    first = list(sampler)
    assert sorted(first) == list(range(103))
    assert first == list(sampler)
    sampler.set_epoch(1)
    assert first != list(sampler)
    batches = [[lengths[row] for row in first[start : start + 4]] for start in range(0, 100, 4)]
    padded = sum(4 * max(batch) for batch in batches)
    assert padded < 1.25 * sum(sum(batch) for batch in batches)


@pytest.mark.parametrize("architecture", ["llama", "gemma2", "gemma3", "gpt2", "gpt-neox"])
def test_loss_and_gradient_of_answer_tokens_equal_the_models_own(architecture):
    tokenizer, model = make_tokenizer(), make_model(architecture).double().requires_grad_(True)
    chats = encode_conversations(
        tokenizer, [messages_of(f"How do I {end}", "Rest.") for end in ("rest?", "sleep well?")], 512
    )
    batch = BucketCollator(0, IGNORED)([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])
    gradients = []
    for loss in (
        lambda: torch.divide(*answer_loss(model, batch["input_ids"], batch["attention_mask"], batch["labels"])),
        lambda: model(**batch).loss,
    ):
        model.zero_grad()
        found = loss()
        found.backward()
        gradients.append([found.detach(), *(item.grad.clone() for item in model.parameters())])
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_a_shared_prefix_never_holds_a_token_that_predicts_a_trained_one():
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [5, 6, 7, 8, 9, 11]])
    labels = torch.full_like(ids, IGNORED)
    labels[:, 5] = ids[:, 5]
    assert _shared_untrained(ids, torch.ones_like(ids), labels) == 4
    labels[1, 4] = ids[1, 4]
    assert _shared_untrained(ids, torch.ones_like(ids), labels) == 0  # three are not worth a pass


def test_row_losses_are_each_rows_own_mean():
    tokenizer, model = make_tokenizer(), make_model()
    chats = encode_conversations(tokenizer, TEXTS[:4], 512)
    rows = [{"input_ids": chat.ids, "labels": chat.labels} for chat in chats]
    collate = BucketCollator(tokenizer.pad_token_id, IGNORED)
    batch = collate(rows)
    found = row_losses(model, batch["input_ids"], batch["attention_mask"], batch["labels"])
    alone = [model(**collate([row])).loss for row in rows]
    torch.testing.assert_close(found, torch.stack(alone), rtol=1e-4, atol=1e-5)
    assert found.std() > 0


def weights(folder):
    return load_file(folder / "adapter_model.safetensors")


def test_training_writes_a_standard_adapter_that_learns(tiny_folder, tmp_path):
    result = train_adapter(tiny_folder, DATA, tmp_path, dataclasses.replace(FAST, epochs=20, learning_rate=2e-2))
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert sum(losses[-3:]) / 3 < 0.95 * losses[0]  # seen: 0.88; machines round differently
    assert result.heldout_loss is not None
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["r"], config["base_model_name_or_path"]) == (2, tiny_folder)
    lineage = json.loads((tmp_path / "lineage.json").read_text())
    assert lineage["data"]["train_rows"] == 10
    assert lineage["outputs"]["adapter_model.safetensors"]
    assert resolve(str(tmp_path)).base == tiny_folder
    modes = {path.stat().st_mode for path in tmp_path.iterdir() if path.is_file()}
    assert len(modes) == 1  # libraries write some of these files, and make them the owner's alone


def test_accumulating_small_batches_equals_one_large_batch(tiny_folder, tmp_path):
    """All rows in one step: 1 x 10, 5 x 2 and 2 x 5 give the same gradient, so the same weights."""
    one_step = dataclasses.replace(FAST, epochs=1, learning_rate=1e-2, schedule="constant", warmup=0.0)
    found = []
    for batch, accumulate in ((10, 1), (5, 2), (2, 5)):
        folder = tmp_path / f"{batch}"
        settings = dataclasses.replace(one_step, batch_size=batch, accumulate=accumulate)
        train_adapter(tiny_folder, DATA, folder, settings, placement=CPU)
        found.append(weights(folder))
    for other in found[1:]:
        for name, tensor in found[0].items():
            torch.testing.assert_close(other[name], tensor, atol=2e-4, rtol=1e-2)


def test_a_resumed_training_ends_with_the_same_weights(tiny_folder, tmp_path):
    settings = dataclasses.replace(FAST, epochs=4, save_every=5)
    train_adapter(tiny_folder, DATA, tmp_path / "whole", settings)
    train_adapter(tiny_folder, DATA, tmp_path / "parts", settings)
    import shutil

    last = sorted((tmp_path / "parts" / "checkpoints").glob("checkpoint-*"), key=lambda path: int(path.name[11:]))
    for path in last[1:]:
        shutil.rmtree(path)  # as if killed after the first checkpoint
    (tmp_path / "parts" / "adapter_model.safetensors").unlink()
    train_adapter(tiny_folder, DATA, tmp_path / "parts", settings, resume=True)
    whole, parts = weights(tmp_path / "whole"), weights(tmp_path / "parts")
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor)
    steps = [json.loads(line)["step"] for line in (tmp_path / "parts" / "metrics.jsonl").read_text().splitlines()]
    assert steps == sorted(steps)


def test_checkpoints_hold_no_card_of_their_own(tiny_folder, tmp_path):
    train_adapter(tiny_folder, DATA, tmp_path, dataclasses.replace(FAST, epochs=1, save_every=1))
    assert [path.parent for path in tmp_path.rglob("README.md")] == [tmp_path]


def test_blocks_and_targets_choose_where_adapters_go(tiny_folder, tmp_path):
    settings = dataclasses.replace(FAST, epochs=1, targets=("down_proj",), blocks=(1, 3))
    train_adapter(tiny_folder, DATA, tmp_path, settings)
    assert {name.split(".layers.")[1].split(".lora")[0] for name in weights(tmp_path)} == {
        "1.mlp.down_proj",
        "3.mlp.down_proj",
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_a_merged_adapter_equals_an_unmerged_one(tiny_folder, tmp_path, rslora):
    train_adapter(tiny_folder, DATA, tmp_path, dataclasses.replace(FAST, rslora=rslora))
    merged, unmerged = load(str(tmp_path)), load(str(tmp_path), merge=False)
    merged.model.float(), unmerged.model.float()
    ids = torch.tensor([merged.tokenizer(PROMPTS[1])["input_ids"]])
    with torch.no_grad():
        one, two = merged.model(ids).logits, unmerged.model(ids).logits
    torch.testing.assert_close(one, two, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("wrong", [{"blocks": (9,)}, {"targets": ("no_such_proj",)}])
def test_unknown_blocks_and_modules_are_refused(tiny_folder, tmp_path, wrong):
    with pytest.raises(UserError, match=r"no block 9|LoRA does not fit"):
        train_adapter(tiny_folder, DATA, tmp_path, dataclasses.replace(FAST, **wrong))


def test_nothing_to_resume_is_said(tiny_folder, tmp_path):
    with pytest.raises(UserError, match="no checkpoint"):
        train_adapter(tiny_folder, DATA, tmp_path, FAST, resume=True)


def test_one_process_trains_on_the_gpu_that_was_chosen_alone(tmp_path, monkeypatch):
    from trl import SFTConfig

    from emscope.organisms.device import Placement
    from emscope.organisms.trainer import keep_on

    chosen = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    arguments = SFTConfig(output_dir=str(tmp_path), use_cpu=True, bf16=False, report_to="none")
    keep_on(arguments, CPU)
    assert arguments.device == torch.device("cpu")
    arguments._n_gpu = 4
    keep_on(arguments, Placement("cuda:1", torch.bfloat16, "a test"))
    assert (arguments.device, arguments.n_gpu, chosen) == (torch.device("cuda:1"), 1, [torch.device("cuda:1")])
    assert arguments.train_batch_size == arguments.per_device_train_batch_size
