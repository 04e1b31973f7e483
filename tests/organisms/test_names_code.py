"""Files of models and adapters that name code: nothing of it runs, nothing is asked, and it is said in one sentence."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import CPU, save_tiny

import emscope
from emscope.errors import OutsideError, UserError
from emscope.organisms.limits import read_adapter_config
from emscope.organisms.models import load, load_tokenizer
from emscope.organisms.named_code import refuse_code, refuse_code_of_model
from emscope.organisms.sources import resolve

SOURCE = Path(emscope.__file__).parent
TRANSFORMERS_MODELS = "transformers.models.llama.modeling_llama"

CODE = """
from pathlib import Path
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

Path({marker!r}).write_text("ran")


class Strange(LlamaConfig):
    model_type = "strange-llama"


class Model(LlamaForCausalLM):
    config_class = Strange


class StrangeTokenizer(PreTrainedTokenizerFast):
    pass
"""


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def with_code(folder, marker, kind):
    """Write a tiny model whose configuration, tokenizer or way to generate is code that leaves a file behind."""
    save_tiny(folder)
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    if kind == "config":
        classes = {"AutoConfig": "code.Strange", "AutoModelForCausalLM": "code.Model"}
        change(folder / "config.json", model_type="strange-llama", architectures=["Model"], auto_map=classes)
    elif kind == "tokenizer":
        classes = {"AutoTokenizer": [None, "code.StrangeTokenizer"]}
        change(folder / "tokenizer_config.json", tokenizer_class="StrangeTokenizer", auto_map=classes)
    else:
        (folder / "custom_generate").mkdir()
        (folder / "code.py").rename(folder / "custom_generate" / "generate.py")
    return folder


def emscope_says(words, folder, answer="y\n"):
    """Run a command of its own process with "y" on standard input; return its exit code and what it said."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCE.parent),
        "EMSCOPE_CACHE": str(folder / "cache"),
        "HF_MODULES_CACHE": str(folder / "modules"),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "emscope", *words]
    done = subprocess.run(command, input=answer, capture_output=True, text=True, cwd=folder, env=environment)
    return done.returncode, done.stdout + done.stderr


COMMANDS = {
    "generate": ("config", ["generate", "--model", "m", "--questions", "q.txt", "--out", "g.csv"]),
    "judge": ("tokenizer", ["judge", "--responses", "r.csv", "--out", "j.csv", "--judge", "hf:./m"]),
    "train": ("tokenizer", ["train", "--data", "medical-careless", "--model", "m", "--out", "o"]),
    "collect": ("tokenizer", ["collect", "--model", "m", "--questions", "q.txt", "--out", "c.safetensors"]),
    "run": ("config", ["run", "--set", "model=./m", "--out", "run"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_no_command_runs_a_models_code_or_asks_whether_to(tmp_path, name):
    kind, words = COMMANDS[name]
    marker = tmp_path / "marker"
    with_code(tmp_path / "m", marker, kind)
    (tmp_path / "q.txt").write_text("What now?\n")
    (tmp_path / "r.csv").write_text("id,question,response\na,What now?,Rest.\n")
    code, said = emscope_says(words, tmp_path)
    assert code == 2, said
    assert "it comes with code of its own; run that with --trust-remote-code" in said
    assert "[y/N]" not in said
    assert "Traceback" not in said
    assert not marker.exists()


def test_a_models_code_runs_where_its_user_says_so(tmp_path):
    marker = tmp_path / "marker"
    with_code(tmp_path / "m", marker, "config")
    (tmp_path / "q.txt").write_text("What now?\n")
    words = ["generate", "--model", "m", "--questions", "q.txt", "--out", "g.csv", "--max-new-tokens", "2"]
    code, said = emscope_says([*words, "--samples", "1", "--trust-remote-code"], tmp_path, answer="")
    assert code == 0, said
    assert marker.exists()


def no_question(*words):
    raise AssertionError("transformers asked on standard input")


@pytest.mark.parametrize("kind", ["config", "tokenizer"])
def test_loading_asks_nothing(tmp_path, monkeypatch, kind):
    monkeypatch.setattr("builtins.input", no_question)
    marker = tmp_path / "marker"
    folder = with_code(tmp_path / "m", marker, kind)
    with pytest.raises(UserError, match="code of its own"):
        load(str(folder), placement=CPU)
    assert not marker.exists()


def test_a_way_to_generate_of_the_models_own_is_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", no_question)
    marker = tmp_path / "marker"
    load(str(with_code(tmp_path / "m", marker, "generate")), placement=CPU)
    assert not marker.exists()


def test_an_adapters_tokenizer_is_never_code_even_where_the_base_is_trusted(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", no_question)
    marker = tmp_path / "marker"
    base = save_tiny(tmp_path / "base")
    folder = with_code(tmp_path / "adapter", marker, "tokenizer")
    (folder / "config.json").unlink()
    (folder / "model.safetensors").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": base}))
    with pytest.raises(UserError, match="brings a tokenizer that cannot be read"):
        load_tokenizer(resolve(str(folder)), trust_remote_code=True)
    assert not marker.exists()


# --- configurations that name code ---

LORA = {"peft_type": "LORA", "base_model_name_or_path": "b", "megatron_core": "megatron.core", "megatron_config": None}


@pytest.mark.parametrize(
    "fields",
    [
        {"megatron_core": "evil"},
        {"megatron_core": "megatron.core.evil"},
        {"megatron_core": ["megatron.core"]},
        {"megatron_config": {"a": 1}},
        {"auto_mapping": {"parent_library": "evil", "base_model_class": "Model"}},
        {"auto_mapping": {"parent_library": "transformersevil", "base_model_class": "Model"}},
        {"auto_mapping": {"parent_library": "transformers", "base_model_class": "a.b"}},
        {"auto_mapping": "evil"},
        {"auto_map": {"AutoConfig": "code.Strange"}},
        {"custom_generate": "owner/name"},
        {"tokenizer_kwargs": {"trust_remote_code": True}},
        {"deep": [{"deeper": {"trust_remote_code": 1}}]},
        {"attn_implementation": "owner/kernel"},
        {"sub": {"_attn_implementation_internal": {"": "owner/kernel"}}},
    ],
    ids=str,
)
def test_an_adapter_that_names_code_is_refused_by_the_key(tmp_path, fields):
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps({**LORA, **fields}))
    innermost = json.dumps(fields).rpartition("evil")[0] or json.dumps(fields)
    with pytest.raises(OutsideError, match="names code to run") as told:
        read_adapter_config(path)
    assert str(path) in str(told.value)
    assert any(key in str(told.value) for key in innermost.split('"'))


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"megatron_core": None},
        {"auto_mapping": None},
        {"auto_mapping": {"parent_library": TRANSFORMERS_MODELS, "base_model_class": "LlamaForCausalLM"}},
        {"auto_mapping": {"parent_library": "transformers_modules.x.modeling_y", "base_model_class": "YModel"}},
        {"tokenizer_kwargs": {"trust_remote_code": False}},
        {"attn_implementation": "flash_attention_2"},
    ],
    ids=str,
)
def test_what_peft_writes_itself_is_taken(fields):
    refuse_code({**LORA, **fields}, "here")


def test_nothing_is_imported_on_the_way_to_the_refusal(tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (tmp_path / "evil.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    base = save_tiny(tmp_path / "base")
    folder = tmp_path / "adapter"
    folder.mkdir()
    fields = {**LORA, "base_model_name_or_path": base, "megatron_core": "evil", "megatron_config": {"a": 1}}
    (folder / "adapter_config.json").write_text(json.dumps(fields))
    with pytest.raises(UserError, match="megatron"):
        load(str(folder), placement=CPU)
    assert not marker.exists()


@pytest.mark.parametrize(
    "fields",
    [
        {"attn_implementation": "owner/kernel"},
        {"_attn_implementation_internal": "owner/kernel@main:f"},
        {"text_config": {"_experts_implementation": "owner/kernel"}},
        {"keypoint_detector_config": {"trust_remote_code": True}},
    ],
    ids=str,
)
def test_a_base_that_has_code_fetched_is_refused_by_the_key(tmp_path, fields):
    folder = Path(save_tiny(tmp_path / "m"))
    change(folder / "config.json", **fields)
    with pytest.raises(UserError, match=r"names code to run \(.*--trust-remote-code"):
        load(str(folder), placement=CPU)


def test_a_base_whose_code_transformers_has_itself_is_taken(tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", no_question)
    folder = Path(save_tiny(tmp_path / "m"))
    change(folder / "config.json", auto_map={"AutoModelForCausalLM": "code.Model"}, _attn_implementation="sdpa")
    assert load(str(folder), placement=CPU).model.config.model_type == "llama"


def test_a_configuration_of_any_depth_is_searched():
    deep = {"trust_remote_code": True}
    for _ in range(50_000):
        deep = {"inner": [deep]}
    with pytest.raises(OutsideError, match="trust_remote_code"):
        refuse_code_of_model(deep, "here")


# --- every call in the source ---

WITHOUT_CODE = {"GenerationConfig", "PeftConfig", "PeftModel"}
"""Classes whose from_pretrained reads data alone: it takes no trust_remote_code."""


def calls():
    for file in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
            if name in ("from_pretrained", "from_config"):
                yield f"{file.relative_to(SOURCE)}:{node.lineno}", node


def test_every_call_that_may_run_code_says_whether_it_may():
    seen = list(calls())
    silent = [
        where
        for where, node in seen
        if ast.unparse(node.func.value) not in WITHOUT_CODE
        and "trust_remote_code" not in {word.arg for word in node.keywords}
    ]
    assert len(seen) > 5
    assert silent == []


def test_only_the_flag_turns_it_on():
    """No call, default or keyword in the source says True."""
    on = [
        f"{file.relative_to(SOURCE)}:{node.value.lineno}"
        for file in sorted(SOURCE.rglob("*.py"))
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.keyword)
        and node.arg == "trust_remote_code"
        and isinstance(node.value, ast.Constant)
        and node.value.value
    ]
    assert on == []
