"""What is handed to vLLM and taken from it, by a stand-in with its interface; `test_vllm_real.py` runs the real one."""

import importlib.machinery
import importlib.util
import json
import math
import sys
import types
from dataclasses import dataclass, replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny import CPU, PROMPTS, make_model, make_tokenizer, save_tiny

from emscope.behaviour import vllm_backend, vllm_check
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.vllm_backend import VllmEngine, choose_backend, longest_request, request_seed
from emscope.behaviour.vllm_check import LONGEST, check_text
from emscope.commands.main import run_command
from emscope.errors import UserError
from emscope.organisms.models import ModelSource, load, resolve

QUESTIONS = [Question(f"q{number}", prompt, cluster="c" * (number % 2)) for number, prompt in enumerate(PROMPTS)]
GREEDY = SamplingSettings(temperature=0, samples=2, max_new_tokens=12)
HAS_VLLM = importlib.util.find_spec("vllm") is not None


@dataclass(frozen=True)
class LoRARequest:
    lora_name: str
    lora_int_id: int
    lora_path: str


class SamplingParams:
    def __init__(
        self,
        *,
        temperature,
        max_tokens,
        detokenize,
        top_p=1.0,
        seed=None,
        stop_token_ids=(),
        ignore_eos=False,
        prompt_logprobs=None,
    ):
        self.__dict__.update(locals())


class Engine:
    """What `LLM.llm_engine` is asked for."""

    def __init__(self, max_model_len):
        self.model_config = types.SimpleNamespace(max_model_len=max_model_len or 512)
        self.engine_core = types.SimpleNamespace(shutdown=self.shutdown)
        self.running, self.added = True, []

    def add_lora(self, request):
        if LLM.refuses:
            raise Exception(f"Worker failed with error '{LLM.refuses}', please check the stack trace above")
        self.added.append(request)

    def shutdown(self):
        self.running = False


class LLM:
    """Greedy decoding through transformers, behind vLLM's interface; it can be told to go wrong as vLLM has."""

    made: dict
    last: "LLM"
    refuses = ""  # the reason for which it refuses every adapter
    served = staticmethod(lambda base, adapter: adapter)  # what is read where an adapter is asked for

    def __init__(self, model, **arguments):
        LLM.made, LLM.last = {"model": model, **arguments}, self
        self.model, self.calls = model, []
        self.llm_engine = Engine(arguments.get("max_model_len"))

    def generate(self, prompts, sampling_params, *, lora_request=None, use_tqdm=True):
        base = load(self.model, placement=CPU)
        organism = load(LLM.served(self.model, lora_request.lora_path), placement=CPU) if lora_request else base
        if sampling_params[0].prompt_logprobs is not None:
            return [types.SimpleNamespace(prompt_logprobs=self._read(organism, prompts[0]["prompt_token_ids"]))]
        self.calls.append((prompts, sampling_params, lora_request))
        return [
            types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=self._decode(organism, prompt, wanted))])
            for prompt, wanted in zip(prompts, sampling_params, strict=True)
        ]

    @torch.no_grad()
    def _read(self, organism, ids):
        table = organism.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1).tolist()
        found = [{token: types.SimpleNamespace(logprob=row[token])} for row, token in zip(table, ids[1:], strict=False)]
        return [None, *found]

    @torch.no_grad()
    def _decode(self, organism, prompt, wanted):
        assert wanted.ignore_eos
        ids = list(prompt["prompt_token_ids"])
        start = len(ids)
        while len(ids) - start < wanted.max_tokens:
            ids.append(int(organism.model(torch.tensor([ids])).logits[0, -1].argmax()))
            if ids[-1] in wanted.stop_token_ids:
                break
        return tuple(ids[start:])


@pytest.fixture
def fake_vllm(monkeypatch):
    package, inputs, lora, request = (
        types.ModuleType(name) for name in ("vllm", "vllm.inputs", "vllm.lora", "vllm.lora.request")
    )
    package.LLM, package.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    inputs.TokensPrompt = dict
    for module in (package, inputs, lora, request):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)


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
    assert choose_backend("auto", PLAIN) == "vllm"
    assert choose_backend("auto", PLAIN, device="cuda") == "vllm"
    assert choose_backend("transformers", PLAIN) == "transformers"
    assert choose_backend("auto", PLAIN, device="cpu") == "transformers"
    with caplog.at_level("INFO", logger="emscope"):
        assert choose_backend("auto", PLAIN, intervention=True) == "transformers"
    assert "cannot run an ablation" in caplog.text
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
        ("vllm", {"intervention": True}, "cannot run an ablation.*--backend transformers"),
        ("vllm", {"device": "cuda:1"}, "CUDA_VISIBLE_DEVICES"),
    ],
)
def test_what_vllm_cannot_do_is_one_sentence(fake_vllm, gpu, asked, arguments, sentence):
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
    second = engine._engine._decode(load(source, placement=CPU), prompts[0], parameters[0])[1]
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
    assert "not compared with transformers'; the adapter acts" in caplog.text
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
        (RuntimeError("Engine core initialization failed. See root cause above."), "Engine core initialization failed"),
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
