"""Damaged models and adapters: each is refused, said, or gives exactly what plain transformers and PEFT give."""

import json
import logging
import random
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import CPU, make_model, make_tokenizer, save_tiny
from transformers import AutoModelForCausalLM

from emscope.errors import UserError
from emscope.organisms.models import load

N_CORRUPTIONS = 200
IDS = torch.tensor([make_tokenizer()("How do I save money for a house?")["input_ids"]])
WEIGHTS = {"base": "model.safetensors", "adapter": "adapter_model.safetensors"}


def save_adapter(folder, base, seed=1):
    torch.manual_seed(seed)
    settings = LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM")
    wrapped = get_peft_model(make_model(), settings)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.3)
    wrapped.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": str(base)}))
    return str(folder)


def corrupt(path, rng):
    """Change one thing of a file of tensors and return its name."""
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    name = rng.choice(sorted(tensors))
    kind = rng.choice(["drop", "rename", "prefix", "prefix all", "transpose", "resize", "zero", "extra", "swap", "nan"])
    tensor = tensors[name]
    if kind == "drop":
        del tensors[name]
    elif kind == "rename":
        tensors[name.replace("layers.", "layer.").replace("embed", "embedding") + "s"] = tensors.pop(name)
    elif kind == "prefix":
        tensors[rng.choice(["module.", "model.", "x."]) + name] = tensors.pop(name)
    elif kind == "prefix all":
        prefix = rng.choice(["module.", "_orig_mod.", "model.", "language_model."])
        tensors = {prefix + name: tensor for name, tensor in tensors.items()}
    elif kind == "transpose" and tensor.dim() == 2:
        tensors[name] = tensor.T.contiguous()
    elif kind == "resize":
        tensors[name] = torch.cat([tensor, tensor[:1]]).clone()
    elif kind == "zero":
        tensors = {name: tensor * 0 if "lora_B" in name else tensor for name, tensor in tensors.items()}
    elif kind == "extra":
        tensors[name.replace(".0.", ".9.") + ".more"] = tensor.clone()
    elif kind == "swap":
        other = rng.choice(sorted(tensors))
        tensors[name], tensors[other] = tensors[other].clone(), tensor.clone()
    elif kind == "nan" and "lora" in name:
        tensors[name] = tensor * float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    return kind


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def plain(base, adapter):
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    return logits(PeftModel.from_pretrained(model, adapter).eval())


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    base = save_tiny(folder / "base")
    save_adapter(folder / "adapter", base)
    return folder


@pytest.mark.filterwarnings("ignore")
def test_no_damage_gives_a_silently_wrong_model(originals, tmp_path, caplog):
    rng, ends = random.Random(0), {"refused": 0, "said": 0, "exact": 0}
    right = plain(str(originals / "base"), str(originals / "adapter"))
    for number in range(N_CORRUPTIONS):
        base, adapter = tmp_path / f"base-{number}", tmp_path / f"adapter-{number}"
        shutil.copytree(originals / "base", base)
        shutil.copytree(originals / "adapter", adapter)
        target = rng.choice(["base", "adapter"])
        kind = corrupt((base if target == "base" else adapter) / WEIGHTS[target], rng)
        caplog.clear()
        try:
            with caplog.at_level(logging.WARNING, "emscope.organisms.guard"):
                got = logits(load(str(adapter), base=str(base), placement=CPU).model)
        except UserError:
            ends["refused"] += 1
        else:
            same = any(torch.allclose(got, want, atol=1e-3) for want in (right, plain(str(base), str(adapter))))
            said = any("all zeros" in record.getMessage() for record in caplog.records)
            assert same or said, f"{number}: {kind} in the {target} went through"
            ends["exact" if same and not said else "said"] += 1
        shutil.rmtree(base)
        shutil.rmtree(adapter)
    assert sum(ends.values()) == N_CORRUPTIONS
    assert all(ends.values()), ends


def test_an_index_that_forgets_a_file_is_refused(tmp_path):
    make_model().save_pretrained(tmp_path, max_shard_size="20KB")
    make_tokenizer().save_pretrained(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    value = json.loads(index.read_text())
    last = sorted(set(value["weight_map"].values()))[-1]
    value["weight_map"] = {name: file for name, file in value["weight_map"].items() if file != last}
    index.write_text(json.dumps(value))
    (tmp_path / last).unlink()
    with pytest.raises(UserError, match="missing"):
        load(str(tmp_path), placement=CPU)


def test_a_missing_shard_is_refused(tmp_path):
    make_model().save_pretrained(tmp_path, max_shard_size="20KB")
    make_tokenizer().save_pretrained(tmp_path)
    sorted(tmp_path.glob("model-*.safetensors"))[0].unlink()
    with pytest.raises(UserError, match=r"00001-of-.* not there"):
        load(str(tmp_path), placement=CPU)
