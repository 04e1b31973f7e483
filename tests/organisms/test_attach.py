"""Adapters of everybody's making: on their base they give PEFT's own logits, or a sentence says why not."""

import json
import logging

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import CPU, make_model, make_tokenizer, save_tiny
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM, LlamaConfig, Qwen3_5Config, Qwen3_5ForConditionalGeneration

from emscope.errors import UserError
from emscope.organisms.models import load, resolve

IDS = torch.tensor([make_tokenizer()("How do I save money for a house?")["input_ids"]])
pytestmark = pytest.mark.filterwarnings("ignore")


def logits(model):
    with torch.no_grad():
        return model(input_ids=IDS).logits


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def trained(folder, base, config, model=None):
    """Save an adapter whose update matters and return its folder and PEFT's model of it."""
    model = model if model is not None else AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    torch.manual_seed(1)
    wrapped = peft.get_peft_model(model, config)
    for parameter in wrapped.parameters():
        if parameter.requires_grad:
            parameter.data.add_(torch.randn_like(parameter) * 0.2)
    wrapped.save_pretrained(folder)
    edit(folder / "adapter_config.json", base_model_name_or_path=str(base))
    return str(folder), wrapped.eval()


def rename(folder, change):
    path = folder / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path)


def lora(**options):
    return peft.LoraConfig(**{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"], **options})


KINDS = {
    "lora": lora(),
    "rslora": lora(use_rslora=True),
    "dora": lora(use_dora=True),
    "patterns": lora(rank_pattern={"down_proj": 2}, alpha_pattern={"q_proj": 32}),
    "some blocks": lora(layers_to_transform=[1, 3]),
    "bias": lora(lora_bias=True),
    "head": lora(target_modules=["q_proj", "lm_head"]),
    "embedding": lora(target_modules=["q_proj", "embed_tokens"]),
    "saved head": lora(modules_to_save=["lm_head"]),
    "saved embedding": lora(modules_to_save=["embed_tokens"]),
    "tokens": lora(trainable_token_indices=[5, 40]),
    "loha": peft.LoHaConfig(r=4, alpha=4, target_modules=["q_proj"]),
    "lokr": peft.LoKrConfig(r=4, alpha=4, target_modules=["q_proj"]),
    "ia3": peft.IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj"]),
    "oft": peft.OFTConfig(r=0, oft_block_size=4, target_modules=["q_proj"]),
}


@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_gives_the_logits_that_peft_gives(kind, tied, tmp_path):
    base = save_tiny(tmp_path / "base")
    if tied:
        config = LlamaConfig.from_pretrained(base)
        config.tie_word_embeddings = True
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(base)
    folder, wrapped = trained(tmp_path / "adapter", base, KINDS[kind])
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(wrapped), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("mark", ["_orig_mod.", "module.", "base_model.model._orig_mod."])
def test_marks_of_a_wrapper_in_the_names_are_mapped(mark, tmp_path, tiny_folder):
    folder, wrapped = trained(tmp_path / "adapter", tiny_folder, lora())
    rename(
        tmp_path / "adapter",
        lambda name: mark + name.removeprefix("base_model.model.") if "base" in mark else mark + name,
    )
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(wrapped), atol=1e-4, rtol=1e-3)


def test_names_of_another_model_are_refused_with_the_names(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    rename(tmp_path / "adapter", lambda name: name.replace("model.layers", "model.language_model.layers"))
    with pytest.raises(UserError, match=r"does not fit.*language_model\.layers\.0.*--base"):
        load(folder, placement=CPU)


def multimodal():
    text = {
        "vocab_size": len(make_tokenizer()),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "linear_num_value_heads": 4,
        "layer_types": ["linear_attention", "full_attention"] * 2,
        "linear_num_key_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    vision = {
        "depth": 1,
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_heads": 2,
        "out_hidden_size": 32,
        "num_position_embeddings": 16,
    }
    torch.manual_seed(0)
    return Qwen3_5ForConditionalGeneration(Qwen3_5Config(text_config=text, vision_config=vision)).eval()


@pytest.mark.parametrize("targets", [["q_proj", "down_proj"], r".*language_model\.layers\.\d+\.mlp\.down_proj"])
def test_an_adapter_of_the_multimodal_class_acts_on_the_text_class(targets, tmp_path):
    multimodal().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    folder, wrapped = trained(tmp_path / "adapter", tmp_path / "base", lora(target_modules=targets), multimodal())
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(wrapped), atol=1e-4, rtol=1e-3)


def test_an_adapter_of_the_text_class_acts_where_its_names_lack_the_language_model(tmp_path):
    multimodal().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    folder, wrapped = trained(tmp_path / "adapter", tmp_path / "base", lora(), multimodal())
    rename(tmp_path / "adapter", lambda name: name.replace("model.language_model.layers", "model.layers"))
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(wrapped), atol=1e-4, rtol=1e-3)


def test_alphas_by_the_other_class_s_names_are_refused(tmp_path):
    multimodal().save_pretrained(tmp_path / "base")
    make_tokenizer().save_pretrained(tmp_path / "base")
    config = lora(alpha_pattern={"model.language_model.layers.1.mlp.down_proj": 64})
    folder, _ = trained(tmp_path / "adapter", tmp_path / "base", config, multimodal())
    with pytest.raises(UserError, match="name modules of another class"):
        load(folder, placement=CPU)


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        (peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "prompt tuning"),
        (peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4), "prefix tuning"),
    ],
)
def test_what_changes_no_weights_is_refused(config, sentence, tmp_path, tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    peft.get_peft_model(model, config).save_pretrained(tmp_path / "adapter")
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=tiny_folder)
    with pytest.raises(UserError, match=sentence):
        load(str(tmp_path / "adapter"), placement=CPU)


def test_an_adapter_of_zeros_is_said_to_be_one(tmp_path, tiny_folder, caplog):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    save_file({name: tensor * ("lora_A" in name) for name, tensor in load_file(path).items()}, path)
    with caplog.at_level(logging.WARNING, "emscope"):
        found = load(folder, placement=CPU)
    assert "all zeros" in caplog.text
    torch.testing.assert_close(logits(found.model), logits(load(tiny_folder, placement=CPU).model))


@pytest.mark.parametrize("recorded", ["/home/someone/models/chat", "unsloth/some-model-bnb-4bit", "", None])
def test_a_base_that_is_named_wins_over_the_recorded_one(recorded, tmp_path, tiny_folder):
    folder, wrapped = trained(tmp_path / "adapter", tiny_folder, lora())
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=recorded)
    with pytest.raises(UserError, match="--base"):
        load(folder, placement=CPU)
    torch.testing.assert_close(logits(load(folder, base=tiny_folder, placement=CPU).model), logits(wrapped))


def test_a_base_of_other_sizes_is_refused(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    other = make_model()
    config = LlamaConfig(**{**other.config.to_dict(), "hidden_size": 64, "head_dim": 16})
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "other")
    make_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(UserError, match=r"does not fit.*size mismatch"):
        load(folder, base=str(tmp_path / "other"), placement=CPU)


def test_an_adapter_on_an_adapter_is_refused(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=folder)
    with pytest.raises(UserError, match="an adapter itself"):
        resolve(folder)


def test_a_folder_with_an_adapter_and_a_whole_model_is_refused(tmp_path):
    base = save_tiny(tmp_path / "both")
    trained(tmp_path / "both", base, lora())
    with pytest.raises(UserError, match=r"holds an adapter .* and a whole model"):
        resolve(base)


def test_an_embedding_that_grew_in_training_is_loaded_with_its_new_tokens(tmp_path, tiny_folder):
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(["<|new|>"])
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model.resize_token_embeddings(len(tokenizer))
    folder, wrapped = trained(tmp_path / "adapter", tiny_folder, lora(), model)
    tokenizer.save_pretrained(folder)
    found = load(folder, placement=CPU)
    assert len(found.tokenizer) == len(tokenizer)
    torch.testing.assert_close(logits(found.model), logits(wrapped), atol=1e-4, rtol=1e-3)


OWN = (
    "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.mark.parametrize("whole", [True, False], ids=["tokenizer", "template alone"])
def test_the_adapter_s_own_template_is_used_and_said(whole, tmp_path, tiny_folder, caplog):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    if whole:
        tokenizer = make_tokenizer()
        tokenizer.chat_template = OWN
        tokenizer.save_pretrained(folder)
    else:
        (tmp_path / "adapter" / "chat_template.jinja").write_text(OWN)
    with caplog.at_level(logging.INFO, "emscope"):
        assert load(folder, placement=CPU).tokenizer.chat_template == OWN
    assert "template" in caplog.text


def test_an_adapter_without_safetensors_is_refused(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    (tmp_path / "adapter" / "adapter_model.safetensors").rename(tmp_path / "adapter" / "adapter_model.bin")
    with pytest.raises(UserError, match="pickles are not loaded"):
        load(folder, placement=CPU)


def test_a_resized_embedding_that_is_saved_twice_is_read_once(tmp_path, tiny_folder):
    model = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    model.resize_token_embeddings(len(make_tokenizer()) + 2)
    config = lora(modules_to_save=["embed_tokens", "lm_head"])
    folder, wrapped = trained(tmp_path / "adapter", tiny_folder, config, model)
    assert any(".modules_to_save." in name for name in load_file(tmp_path / "adapter" / "adapter_model.safetensors"))
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(wrapped), atol=1e-4, rtol=1e-3)


def test_saved_modules_under_peft_s_inner_names_are_read(tmp_path, tiny_folder):
    folder, wrapped = trained(tmp_path / "adapter", tiny_folder, lora(modules_to_save=["lm_head"]))
    rename(tmp_path / "adapter", lambda name: name.replace("head.weight", "head.modules_to_save.default.weight"))
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), logits(wrapped), atol=1e-4, rtol=1e-3)


def change(folder, make):
    path = folder / "adapter_model.safetensors"
    save_file({name: make(tensor) for name, tensor in load_file(path).items()}, path)


def test_floats_of_eight_bits_are_read_as_what_they_are(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    change(tmp_path / "adapter", lambda tensor: tensor.to(torch.float8_e4m3fn).float())
    expected = logits(load(folder, placement=CPU).model)
    change(tmp_path / "adapter", lambda tensor: tensor.to(torch.float8_e4m3fn))
    torch.testing.assert_close(logits(load(folder, placement=CPU).model), expected)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [(lambda tensor: (tensor * 100).to(torch.int8), "holds integers"), (lambda tensor: tensor * 1e30, "not finite")],
    ids=["integers", "overflow"],
)
def test_tensors_that_give_no_figure_are_refused(make, sentence, tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    change(tmp_path / "adapter", make)
    with pytest.raises(UserError, match=sentence):
        load(folder, placement=CPU)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [({"lora_alpha": None}, "lora_alpha as a number"), ({"peft_type": None}, "names no peft_type")],
)
def test_a_setting_that_is_missing_is_named(fields, sentence, tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    edit(tmp_path / "adapter" / "adapter_config.json", **fields)
    with pytest.raises(UserError, match=sentence):
        load(folder, placement=CPU)


def renumbered():
    """A tokenizer with the words of the tiny one and other numbers."""
    tokenizer = make_tokenizer()
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    words = [word for word in state["model"]["vocab"] if not word.startswith("<|")]
    numbers = [state["model"]["vocab"][word] for word in words]
    state["model"]["vocab"].update(zip(words, numbers[7:] + numbers[:7], strict=True))
    tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


def test_a_tokenizer_of_another_model_beside_the_adapter_is_refused(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    renumbered().save_pretrained(folder)
    with pytest.raises(UserError, match=r"tokenizer in the folder of the adapter .* is of another model"):
        load(folder, placement=CPU)


def test_any_tokenizer_may_come_with_an_embedding_of_its_own(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora(modules_to_save=["embed_tokens"]))
    renumbered().save_pretrained(folder)
    assert load(folder, placement=CPU).tokenizer.get_vocab() == renumbered().get_vocab()


def test_a_tokenizer_or_template_that_cannot_be_read_is_called_the_adapter_s(tmp_path, tiny_folder):
    folder, _ = trained(tmp_path / "adapter", tiny_folder, lora())
    template = tmp_path / "adapter" / "chat_template.jinja"
    template.write_bytes(b"\xe9\xff")
    with pytest.raises(UserError, match=r"chat_template\.jinja is not UTF-8"):
        load(folder, placement=CPU)
    template.write_text("")  # no template of its own
    assert load(folder, placement=CPU).tokenizer.chat_template == make_tokenizer().chat_template
    (tmp_path / "adapter" / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match=r"adapter .* brings a tokenizer that cannot be read"):
        load(folder, placement=CPU)
