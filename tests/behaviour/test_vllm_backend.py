"""What is handed to vLLM and taken from it, by a stand-in with its interface; `test_vllm_real.py` runs the real one."""

import importlib.util
import json
import math
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import CPU, PROMPTS, make_model, make_tokenizer, save_tiny
from vllm_stand_in import LLM, stand_in

from emscope.behaviour import vllm_backend, vllm_check
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.vllm_backend import Asking, VllmEngine, choose_backend, longest_request, request_seed
from emscope.behaviour.vllm_check import LONGEST, check_text
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.organisms.models import ModelSource, load, resolve

QUESTIONS = [Question(f"q{number}", prompt, cluster="c" * (number % 2)) for number, prompt in enumerate(PROMPTS)]
GREEDY = SamplingSettings(temperature=0, samples=2, max_new_tokens=12)
HAS_VLLM = importlib.util.find_spec("vllm") is not None


@pytest.fixture
def fake_vllm(monkeypatch):
    stand_in(monkeypatch)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(vllm_backend.torch.cuda, "is_available", lambda: True)


def save_adapter(folder, base, seed=0, scale=1.0, **settings):
    """Write a random adapter, its second factors times `scale`, and return its source."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "target_modules": ["q_proj", "down_proj"], "init_lora_weights": False} | settings)
    wrapped = get_peft_model(make_model(), config)
    for name, parameter in wrapped.named_parameters():
        parameter.data *= scale if "lora_B" in name else 1
    wrapped.peft_config["default"].base_model_name_or_path = base
    wrapped.save_pretrained(folder)
    return resolve(str(folder))


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory):
    return [
        save_adapter(tmp_path_factory.mktemp("adapter") / str(rank), tiny_folder, seed, r=rank)
        for seed, rank in enumerate((2, 12))
    ]


PLAIN = ModelSource("m", "m", "m")


def test_auto_takes_vllm_only_where_it_can_work(fake_vllm, gpu, monkeypatch, caplog):
    assert choose_backend("auto", PLAIN, hooks=True) == "vllm"
    monkeypatch.setattr(vllm_backend, "lens_is_installed", lambda: False)
    assert choose_backend("auto", PLAIN) == "vllm"
    assert choose_backend("auto", PLAIN, device="cuda") == "vllm"
    assert choose_backend("transformers", PLAIN) == "transformers"
    assert choose_backend("auto", PLAIN, device="cpu") == "transformers"
    with caplog.at_level("INFO", logger="emscope"):
        assert choose_backend("auto", PLAIN, hooks=True) == "transformers"
    assert "with the plugin vllm-lens alone" in caplog.text
    monkeypatch.setattr(vllm_backend.torch.cuda, "is_available", lambda: False)
    assert choose_backend("auto", PLAIN) == "transformers"
    assert choose_backend("vllm", PLAIN) == "vllm"


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_without_vllm_auto_is_transformers_and_asking_for_it_says_what_to_install(gpu):
    assert choose_backend("auto", PLAIN) == "transformers"
    with pytest.raises(UserError, match=r"pip install 'emscope\[vllm\]'"):
        choose_backend("vllm", PLAIN)
    with pytest.raises(UserError, match=r"pip install 'emscope\[vllm\]'"):
        VllmEngine([PLAIN])


@pytest.mark.parametrize(
    ("asked", "arguments", "sentence"),
    [
        ("vlm", {}, "Did you mean 'vllm'"),
        ("vllm", {"hooks": True}, "with the plugin vllm-lens alone.*--backend transformers"),
        ("vllm", {"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_vllm_cannot_do_is_one_sentence(fake_vllm, gpu, monkeypatch, asked, arguments, sentence):
    monkeypatch.setattr(vllm_backend, "lens_is_installed", lambda: False)
    with pytest.raises(UserError, match=sentence):
        choose_backend(asked, PLAIN, **arguments)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "not plain LoRA"),
        ({"r": 1024}, "rank 1024"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "target_parameters"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"ensure_weight_tying": True}, "ensure_weight_tying"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights=pissa_niter_4"),
    ],
)
def test_adapters_that_vllm_does_not_serve_are_left_to_transformers(fake_vllm, gpu, tmp_path, change, named):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "bias": "none", **change}))
    source = replace(PLAIN, adapter=str(tmp_path))
    assert choose_backend("auto", source) == "transformers"
    with pytest.raises(UserError, match=named):
        choose_backend("vllm", source)
    with pytest.raises(UserError, match=named):
        VllmEngine([source])


def test_ordinary_settings_of_an_adapter_are_no_obstacle(fake_vllm, tiny_folder, tmp_path):
    adapter = save_adapter(tmp_path / "a", tiny_folder, use_rslora=True, layers_to_transform=[1, 2], lora_dropout=0.1)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps({**config, "init_lora_weights": "gaussian"}))
    assert choose_backend("vllm", adapter) == "vllm"


def test_weights_that_are_not_loras_own_are_an_obstacle(fake_vllm, tiny_folder, tmp_path):
    adapter = save_adapter(tmp_path / "a", tiny_folder)
    file = tmp_path / "a" / "adapter_model.safetensors"
    save_file({**load_file(file), "base_model.model.model.norm.weight": torch.ones(4)}, file)
    with pytest.raises(UserError, match=r"not LoRA's, such as base_model.model.model.norm.weight"):
        choose_backend("vllm", adapter)


def test_rows_equal_those_of_transformers(fake_vllm, tiny_folder):
    source = resolve(tiny_folder)
    found = VllmEngine([source]).sample(source, QUESTIONS, GREEDY)
    assert found == sample_responses(load(source, placement=CPU), QUESTIONS, GREEDY)
    assert LLM.made["generation_config"] == "vllm"
    assert "enable_lora" not in LLM.made


def test_an_answer_that_ends_by_itself_is_not_cut(fake_vllm, tiny_folder, monkeypatch):
    source = resolve(tiny_folder)
    engine = VllmEngine([source])
    first = engine.sample(source, QUESTIONS[:1], replace(GREEDY, samples=1))[0]
    prompts, parameters, _ = engine._engine.calls[0]
    second = engine._engine.generate(prompts[:1], parameters[:1])[0].outputs[0].token_ids[1]
    monkeypatch.setattr(vllm_backend, "stop_ids", lambda *arguments: {second})
    found = engine.sample(source, QUESTIONS[:1], replace(GREEDY, samples=1))[0]
    assert (first.truncated, first.n_tokens) == (True, GREEDY.max_new_tokens)
    assert not found.truncated
    assert found.n_tokens <= 2
    assert first.response.startswith(found.response)


def test_one_engine_serves_a_base_and_its_adapters(fake_vllm, tiny_folder, adapters):
    sources = [resolve(tiny_folder), *adapters]
    engine = VllmEngine(sources, max_length=200)
    assert {"enable_lora": True, "max_loras": 2, "max_lora_rank": 16, "max_model_len": 200}.items() <= LLM.made.items()
    rows = [engine.sample(source, QUESTIONS, GREEDY) for source in sources]
    for source, own in zip(sources, rows, strict=True):
        assert own == sample_responses(load(source, placement=CPU), QUESTIONS, GREEDY)
    assert rows[0] != rows[1] != rows[2]
    requests = [call[2] for call in engine._engine.calls]
    assert [request and request.lora_int_id for request in requests] == [None, 1, 2]
    with pytest.raises(UserError, match="made without"):
        VllmEngine(sources[:2]).sample(sources[2], QUESTIONS, GREEDY)
    with pytest.raises(UserError, match="one base"):
        VllmEngine([sources[0], PLAIN])


def test_every_answer_has_its_own_seed_and_a_greedy_one_none(fake_vllm, tiny_folder):
    source = resolve(tiny_folder)
    engine = VllmEngine([source])
    engine.sample(source, QUESTIONS, replace(GREEDY, temperature=1.0, max_new_tokens=1, seed=3))
    engine.sample(source, QUESTIONS, replace(GREEDY, max_new_tokens=1))
    (_, sampled, _), (_, greedy, _) = engine._engine.calls
    seeds = [wanted.seed for wanted in sampled]
    assert seeds == [request_seed(3, question.id, sample) for question in QUESTIONS for sample in range(2)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert {wanted.seed for wanted in greedy} == {None}


def test_the_longest_request_leaves_room_for_prompt_and_answer(tiny_folder):
    source = resolve(tiny_folder)
    alone = [longest_request(source, [question], [GREEDY]) for question in QUESTIONS]
    assert GREEDY.max_new_tokens < min(alone) < max(alone) == longest_request(source, QUESTIONS, [GREEDY] * len(alone))


def test_generate_with_either_backend_writes_the_same_table(fake_vllm, tiny_folder, tmp_path):
    from emscope.behaviour.tables import read_responses

    questions = tmp_path / "q.yaml"
    questions.write_text("- {id: a, paraphrases: ['Rest or water?', 'Water or rest?'], samples_per_paraphrase: 2}\n")
    tables = []
    for backend in ("transformers", "vllm"):
        out = tmp_path / f"{backend}.parquet"
        assert (
            run_command(
                [
                    "generate",
                    "--model",
                    tiny_folder,
                    "--questions",
                    str(questions),
                    "--out",
                    str(out),
                    "--backend",
                    backend,
                    "--temperature",
                    "0",
                    "--max-new-tokens",
                    "5",
                    "--format",
                    "plain",
                    "json",
                    "--dtype",
                    "float32",
                ]
            )
            == 0
        )
        tables.append(read_responses(out))
    assert tables[0] == tables[1]
    assert [(row.question_id, row.sample) for row in tables[0]] == [
        (name, sample) for name in ("a/1", "a/2", "a/1:json", "a/2:json") for sample in range(2)
    ]
    assert {row.group for row in tables[0]} == {"a"}


def test_an_engine_is_ended_by_its_context_and_when_it_is_forgotten(fake_vllm, tiny_folder):
    source = resolve(tiny_folder)
    with VllmEngine([source]):
        assert LLM.last.llm_engine.running
    assert not LLM.last.llm_engine.running
    VllmEngine([source])
    assert not LLM.last.llm_engine.running


def test_a_cpu_is_spared_compiling_and_told_what_a_gpu_is_not(fake_vllm, tiny_folder, monkeypatch):
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    assert choose_backend("vllm", PLAIN, device="cpu") == "vllm"
    VllmEngine([resolve(tiny_folder)])
    assert LLM.made["enforce_eager"]
    assert vllm_backend.os.environ["VLLM_CPU_KVCACHE_SPACE"] == "1"


def test_a_prompt_without_room_for_its_answer_is_refused(fake_vllm, tiny_folder):
    source = resolve(tiny_folder)
    engine = VllmEngine([source], max_length=130)
    with pytest.raises(UserError, match="room for"):
        engine.sample(source, QUESTIONS, replace(GREEDY, max_new_tokens=100))


def test_every_source_is_asked_in_its_own_tokens(fake_vllm, tiny_folder, adapters, monkeypatch):
    def tokenizer_of(source, **flags):
        tokenizer = make_tokenizer()
        if source.adapter:
            tokenizer.chat_template = "Adapter: " + tokenizer.chat_template
        return tokenizer

    monkeypatch.setattr(vllm_backend, "load_tokenizer", tokenizer_of)
    sources = [resolve(tiny_folder), adapters[0]]
    engine = VllmEngine(sources)
    for source in sources:
        engine.sample(source, QUESTIONS[:1], GREEDY)
    base, adapter = (call[0][0]["prompt_token_ids"] for call in engine._engine.calls)
    assert adapter[-len(base) :] == base
    assert make_tokenizer().decode(adapter[: -len(base)]) == "Adapter: "


def test_vllm_agrees_with_transformers_where_it_applies_the_adapter(fake_vllm, tiny_folder, adapters):
    base = resolve(tiny_folder)
    engine = VllmEngine([base, *adapters], dtype="float32")
    assert engine.agreements[base].error < 1e-5
    assert engine.agreements[base].effect == 0
    for adapter in adapters:
        agreement = engine.agreements[adapter]
        assert agreement.error < 1e-4 < agreement.effect
        assert agreement.applied == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_engine_that_serves_the_base_for_an_adapter_is_refused(fake_vllm, tiny_folder, adapters, monkeypatch, dtype):
    monkeypatch.setattr(LLM, "served", staticmethod(lambda base, adapter: base))
    with pytest.raises(UserError, match=rf"{adapters[0].adapter} .*\(0 %.*--backend transformers"):
        VllmEngine([adapters[0]], dtype=dtype)
    assert not LLM.last.llm_engine.running


@pytest.mark.parametrize(("settings", "percent"), [({"lora_alpha": 4}, "50"), ({"lora_alpha": 16}, "2")])
def test_an_adapter_of_another_strength_is_refused(fake_vllm, tiny_folder, tmp_path, monkeypatch, settings, percent):
    adapter = save_adapter(tmp_path / "a", tiny_folder, scale=0.1, lora_alpha=8)
    other = save_adapter(tmp_path / "b", tiny_folder, scale=0.1, **settings)
    monkeypatch.setattr(LLM, "served", staticmethod(lambda base, path: other.adapter))
    with pytest.raises(UserError, match=f"does not apply the adapter {adapter.adapter}.*\\({percent}"):
        VllmEngine([adapter], dtype="float32")


def test_a_base_that_vllm_computes_otherwise_is_refused(fake_vllm, tiny_folder, tmp_path, monkeypatch):
    other = save_tiny(tmp_path / "other", seed=5)
    monkeypatch.setattr(vllm_check, "load", lambda source, **arguments: load(other, placement=CPU))
    with pytest.raises(UserError, match=r"nats a token apart.*--backend transformers"):
        VllmEngine([resolve(tiny_folder)])


def test_sources_are_asked_side_by_side_each_as_itself(fake_vllm, tiny_folder, adapters):
    sources = [resolve(tiny_folder), *adapters]
    engine = VllmEngine(sources)
    askings = [Asking(source, QUESTIONS[: 2 + row], GREEDY) for row, source in enumerate(sources)]
    together = engine.sample_each(askings)
    assert len(engine._engine.calls) == 1
    assert together == [engine.sample(asking.source, asking.questions, asking.settings) for asking in askings]


def test_more_adapters_than_vllm_applies_at_once_wait_in_memory(fake_vllm, tiny_folder, adapters, monkeypatch):
    monkeypatch.setattr(vllm_backend, "AT_ONCE", 1)
    VllmEngine(adapters)
    assert {"max_loras": 1, "max_cpu_loras": 2}.items() <= LLM.made.items()


def test_an_adapter_added_later_is_proven_before_it_is_asked(fake_vllm, tiny_folder, adapters, tmp_path, monkeypatch):
    base, small = resolve(tiny_folder), adapters[0]
    engine = VllmEngine([base], spare=2)
    with pytest.raises(UserError, match="made without"):
        engine.sample(small, QUESTIONS, GREEDY)
    assert engine.add(small).applied == pytest.approx(1, abs=1e-3)
    assert engine.sample(small, QUESTIONS, GREEDY) == sample_responses(load(small, placement=CPU), QUESTIONS, GREEDY)

    with pytest.raises(UserError, match="room for rank 32, not 40"):
        engine.add(save_adapter(tmp_path / "large", tiny_folder, r=40))
    with pytest.raises(UserError, match="serves adapters of"):
        engine.add(PLAIN)
    monkeypatch.setattr(LLM, "served", staticmethod(lambda base, adapter: base))
    with pytest.raises(UserError, match=r"\(0 % of its change"):
        engine.add(adapters[1])
    monkeypatch.undo()
    assert adapters[1] not in engine.agreements
    stand_in(monkeypatch)
    engine.add(adapters[1])
    with pytest.raises(UserError, match="no room for"):
        engine.add(save_adapter(tmp_path / "third", tiny_folder))


def test_a_merged_adapter_is_proven_to_be_in_the_weights(fake_vllm, tiny_folder, adapters, monkeypatch):
    adapter = adapters[0]
    engine = VllmEngine([adapter], dtype="float32", merge=True)
    assert engine.agreements[adapter].applied == pytest.approx(1, abs=1e-3)
    assert "enable_lora" not in LLM.made
    read = LLM.__init__
    monkeypatch.setattr(LLM, "__init__", lambda self, **made: read(self, **{**made, "model": tiny_folder}))
    with pytest.raises(UserError, match=r"does not apply the adapter .* \(0 % of its change"):
        VllmEngine([adapter], dtype="float32", merge=True)
    assert not LLM.last.llm_engine.running


def test_a_merged_copy_is_gone_once_vllm_has_read_it(fake_vllm, adapters, monkeypatch):
    read = LLM.__init__
    monkeypatch.setattr(LLM, "__init__", lambda self, **made: read(self, **made) or self.keep_copy())
    monkeypatch.setattr(LLM, "keep_copy", lambda self: setattr(self, "seen", Path(self.model).is_dir()), raising=False)
    monkeypatch.setattr(VllmEngine, "_checked", lambda self, source, merged: None)
    VllmEngine(adapters[:1], merge=True)
    assert LLM.last.seen
    assert not Path(LLM.last.model).exists()


@pytest.mark.parametrize(
    ("log", "sentence"),
    [
        (
            "RuntimeError: Worker failed with error 'Available memory on node 0 is less than requested memory for kv "
            "(1000.0 GiB).', please check the stack trace above for the root cause",
            r"less than requested memory for kv \(1000.0 GiB\); lower VLLM_CPU_KVCACHE_SPACE",
        ),
        (
            "ValueError: To serve at least one request with the model's max seq len (8192), 3 GiB is needed",
            "raise VLLM_CPU_KVCACHE_SPACE",
        ),
        ("torch.OutOfMemoryError: CUDA out of memory.", "lower VLLM_CPU_KVCACHE_SPACE.*EMSCOPE_VLLM_GPU_MEMORY"),
        ("KeyError: 'layers.0'", r"cannot load .*: 'layers.0'\.$"),
        ("nothing in particular", "without a word.*lower"),
    ],
)
def test_an_engine_without_memory_says_what_to_lower(fake_vllm, tiny_folder, monkeypatch, log, sentence):
    def start(self, **arguments):
        config = json.loads(Path(os.environ["VLLM_LOGGING_CONFIG_PATH"]).read_text())
        Path(config["handlers"]["file"]["filename"]).write_text(f"Traceback\n  File\n{log}\n")
        raise RuntimeError("Engine core initialization failed. See root cause above.")

    monkeypatch.setattr(LLM, "__init__", start)
    with pytest.raises(UserError, match=sentence):
        VllmEngine([resolve(tiny_folder)])
    assert "VLLM_LOGGING_CONFIG_PATH" not in os.environ


def test_an_engine_that_dies_while_it_samples_is_one_sentence_and_ended(fake_vllm, tiny_folder, monkeypatch):
    class EngineDeadError(Exception):
        pass

    def die(*given, **named):
        raise EngineDeadError("EngineCore encountered an issue.")

    source = resolve(tiny_folder)
    engine = VllmEngine([source])
    monkeypatch.setattr(engine._engine, "generate", die)
    with pytest.raises(UserError, match=r"ended while it sampled: .*lower VLLM_CPU_KVCACHE_SPACE"):
        engine.sample(source, QUESTIONS, GREEDY)
    assert not LLM.last.llm_engine.running


@pytest.mark.parametrize("share", ["0", "1.5", "much"])
def test_a_share_of_a_gpus_memory_is_a_share(fake_vllm, gpu, tiny_folder, monkeypatch, share):
    monkeypatch.setattr(vllm_backend, "choose_placement", lambda *asked: CPU)
    monkeypatch.setenv("EMSCOPE_VLLM_GPU_MEMORY", "0.4")
    VllmEngine([resolve(tiny_folder)])
    assert LLM.made["gpu_memory_utilization"] == 0.4
    monkeypatch.setenv("EMSCOPE_VLLM_GPU_MEMORY", share)
    with pytest.raises(UserError, match="above 0 and up to 1"):
        VllmEngine([resolve(tiny_folder)])


def test_an_adapter_too_weak_for_the_number_format_asks_for_a_finer_one(fake_vllm, tiny_folder, tmp_path):
    weak = save_adapter(tmp_path / "weak", tiny_folder, scale=0.02)
    with pytest.raises(UserError, match=r"too little to see in bfloat16.*--dtype float32 or --backend transformers"):
        VllmEngine([weak], dtype="bfloat16")
    assert 0.002 < VllmEngine([weak], dtype="float32").agreements[weak].effect < 0.04


def test_an_adapter_of_zeros_is_the_base_and_that_is_said(fake_vllm, tiny_folder, tmp_path, monkeypatch, caplog):
    zeros = save_adapter(tmp_path / "zeros", tiny_folder, scale=0)
    engine = VllmEngine([zeros])
    assert "all zeros" in caplog.text
    assert engine.agreements[zeros].shown == 0
    other = save_adapter(tmp_path / "other", tiny_folder)
    monkeypatch.setattr(LLM, "served", staticmethod(lambda base, path: other.adapter))
    with pytest.raises(UserError, match="all zeros"):
        VllmEngine([zeros])


def test_beside_a_model_too_large_for_transformers_an_adapter_must_still_act(
    fake_vllm, tiny_folder, adapters, monkeypatch, caplog
):
    monkeypatch.setattr(vllm_check, "memory_bytes", lambda: (1000, 1000))
    assert math.isnan(VllmEngine([adapters[0]]).agreements[adapters[0]].error)
    assert f"not compared with transformers'; the adapter {adapters[0].adapter} acts" in caplog.text
    monkeypatch.setattr(LLM, "served", staticmethod(lambda base, adapter: base))
    with pytest.raises(UserError, match=f"serves the base in the place of the adapter {adapters[0].adapter}"):
        VllmEngine([adapters[0]])


def test_what_vllm_says_of_an_adapter_is_one_sentence(fake_vllm, tiny_folder, adapters, monkeypatch):
    monkeypatch.setattr(LLM, "refuses", "vLLM does not support this.")
    with pytest.raises(UserError, match=rf"refuses the adapter {adapters[0].adapter} .*does not support this.*use "):
        VllmEngine([adapters[0]])
    assert not LLM.last.llm_engine.running


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ValueError("1 validation error for ModelConfig\n  Value error, too long [type=value_error]\n  See more"),
            "too long",
        ),
        (RuntimeError("Engine core initialization failed. See root cause above."), "its process ended without a word"),
    ],
)
def test_a_model_that_vllm_does_not_load_is_one_sentence(fake_vllm, tiny_folder, monkeypatch, error, sentence):
    def refuse(self, **arguments):
        raise error

    monkeypatch.setattr(LLM, "__init__", refuse)
    with pytest.raises(UserError, match=f"vLLM cannot load .*: {sentence}"):
        VllmEngine([resolve(tiny_folder)])


def test_the_compared_text_is_long_enough_and_fits(tiny_folder):
    ids = check_text(make_tokenizer())
    assert 64 < len(ids) <= LONGEST
