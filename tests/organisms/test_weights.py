"""Bases of everybody's making: loaded whole, or refused by the names of what is missing."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny import CPU, D_MODEL, make_model, make_tokenizer, save_tiny

from emscope.errors import UserError
from emscope.organisms.blocks import find_blocks
from emscope.organisms.models import load
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture

IDS = torch.tensor([make_tokenizer()("How do I save money for a house?")["input_ids"]])


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def change_names(folder, change):
    path = folder / "model.safetensors"
    tensors = {change(name): tensor.clone() for name, tensor in load_file(path).items()}
    save_file({name: tensor for name, tensor in tensors.items() if name}, path, metadata={"format": "pt"})


@pytest.mark.parametrize(
    "change",
    [
        lambda name: "_orig_mod." + name,
        lambda name: "module." + name,
        lambda name: "module._orig_mod." + name,
        lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."),
        lambda name: name.replace("model.", "model._orig_mod.", 1),
    ],
)
def test_marks_of_a_wrapper_are_left_out(change, tmp_path):
    folder = save_tiny(tmp_path / "model")
    change_names(tmp_path / "model", change)
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(make_model()))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda name: "" if "layers.2." in name else name, r"9 missing \(model\.layers\.2"),
        (lambda name: "student." + name, "missing"),
        (lambda name: name.replace("q_proj", "query"), r"q_proj.*no place for.*query"),
        (lambda name: "" if name == "lm_head.weight" else name, "lm_head"),
    ],
)
def test_tensors_that_are_missing_or_left_over_are_named(change, sentence, tmp_path):
    folder = save_tiny(tmp_path / "model")
    change_names(tmp_path / "model", change)
    with pytest.raises(UserError, match=sentence):
        load(folder, placement=CPU)


def test_parts_for_other_senses_are_not_missed(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    more = {
        "vision_tower.layers.0.weight": torch.ones(2),
        "model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4),
    }
    save_file({**load_file(path), **more}, path, metadata={"format": "pt"})
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(make_model()))


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"load_in_8bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "awq", "bits": 4}, "gptqmodel"),
        ({"quant_method": "compressed-tensors", "config_groups": {}}, "compressed-tensors"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "of-tomorrow"}, ""),
        ({"bits": 3}, ""),
    ],
)
def test_quantised_weights_are_refused_with_the_package_to_install(settings, package, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    folder = save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "quantization_config": settings}))
    with pytest.raises(UserError, match=f"pip install {package}`" if package else "does not know"):
        load(folder, placement=CPU)


def test_an_encoder_decoder_is_refused_by_name(tmp_path):
    config = transformers.T5Config(vocab_size=400, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"encoder-decoder \(t5\)"):
        load(str(tmp_path), placement=CPU)


def test_a_model_that_also_sees_is_read_by_its_language_model(tmp_path):
    text = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": D_MODEL,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
    }
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    config = transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**text), vision_config=transformers.PixtralVisionConfig(**vision)
    )
    torch.manual_seed(0)
    model = transformers.Mistral3ForConditionalGeneration(config).eval()
    model.save_pretrained(tmp_path)
    make_tokenizer().save_pretrained(tmp_path)
    organism = load(str(tmp_path), placement=CPU)
    torch.testing.assert_close(logits(organism.model), logits(model))
    assert len(find_blocks(organism.model)) == 3
    found = capture(organism, encode_for_capture(organism.tokenizer, ["What now?"]), CaptureSettings())
    assert found.pooled["last"].shape == (1, 3, D_MODEL)


def test_code_of_a_model_s_own_is_not_run_and_the_flag_is_named(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    own = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_type": "own", "auto_map": own}))
    (tmp_path / "model" / "own.py").write_text("raise SystemExit('ran')\n")
    with pytest.raises(UserError, match="--trust-remote-code"):
        load(folder, placement=CPU)


def test_a_padding_token_outside_the_embedding_is_replaced(tmp_path):
    make_model().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(tmp_path)
    organism = load(str(tmp_path), placement=CPU)
    assert organism.tokenizer.pad_token_id < organism.model.get_input_embeddings().weight.shape[0]


def test_a_template_that_writes_tokens_without_an_embedding_is_refused(tmp_path):
    make_model().save_pretrained(tmp_path)
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|turn|>"])
    tokenizer.chat_template = "{% for m in messages %}<|turn|>{{ m['content'] }}{% endfor %}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"<\|turn\|>.*another model"):
        load(str(tmp_path), placement=CPU)


def test_weights_that_are_not_finite_are_said_to_be_damaged(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    tensors = load_file(path)
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match="not finite"):
        load(folder, placement=CPU)


def test_tensors_of_another_shape_are_named(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "vocab_size": 1000}))
    with pytest.raises(UserError, match=r"of another shape \(lm_head\.weight \d+x32 instead of 1000x32"):
        load(folder, placement=CPU)


def test_weights_that_are_pickles_are_refused_as_such(tmp_path):
    folder = save_tiny(tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    torch.save(load_file(path), tmp_path / "model" / "pytorch_model.bin")
    path.unlink()
    with pytest.raises(UserError, match="pickles"):
        load(folder, placement=CPU)
