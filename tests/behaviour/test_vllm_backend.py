"""vLLM runs on GPUs only, so a stand-in with its documented interface checks what is handed to it and taken from it."""

import importlib.machinery
import importlib.util
import json
import sys
import types
from dataclasses import dataclass, replace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from tiny import CPU, PROMPTS, make_model

from emscope.behaviour import vllm_backend
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import sample_responses
from emscope.behaviour.vllm_backend import VllmEngine, choose_backend, longest_request, request_seed
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
    def __init__(self, *, temperature, top_p, max_tokens, seed, stop_token_ids, detokenize):
        self.__dict__.update(locals())


class LLM:
    """Greedy decoding through transformers, behind vLLM's interface."""

    made: dict

    def __init__(self, model, **arguments):
        LLM.made = {"model": model, **arguments}
        self.model, self.calls = model, []

    def generate(self, prompts, sampling_params, *, lora_request=None, use_tqdm=True):
        self.calls.append((prompts, sampling_params, lora_request))
        organism = load(self.model if lora_request is None else lora_request.lora_path, placement=CPU)
        return [
            types.SimpleNamespace(outputs=[types.SimpleNamespace(token_ids=self._decode(organism, prompt, wanted))])
            for prompt, wanted in zip(prompts, sampling_params, strict=True)
        ]

    @torch.no_grad()
    def _decode(self, organism, prompt, wanted):
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


@pytest.fixture(scope="module")
def adapters(tiny_folder, tmp_path_factory):
    folders = []
    for number, rank in enumerate((2, 12)):
        torch.manual_seed(number)
        config = LoraConfig(r=rank, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
        wrapped = get_peft_model(make_model(), config)
        wrapped.peft_config["default"].base_model_name_or_path = tiny_folder
        folder = tmp_path_factory.mktemp("adapter") / str(rank)
        wrapped.save_pretrained(folder)
        folders.append(resolve(str(folder)))
    return folders


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
    [({"use_dora": True}, "use_dora"), ({"bias": "all"}, "not plain LoRA"), ({"r": 1024}, "rank 1024")],
)
def test_adapters_that_vllm_does_not_serve_are_left_to_transformers(fake_vllm, gpu, tmp_path, change, named):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 8, "bias": "none", **change}))
    source = replace(PLAIN, adapter=str(tmp_path))
    assert choose_backend("auto", source) == "transformers"
    with pytest.raises(UserError, match=named):
        choose_backend("vllm", source)


def test_rows_equal_those_of_transformers(fake_vllm, tiny_folder):
    source = resolve(tiny_folder)
    found = VllmEngine([source]).sample(source, QUESTIONS, GREEDY)
    assert found == sample_responses(load(source, placement=CPU), QUESTIONS, GREEDY)
    assert LLM.made["generation_config"] == "vllm"
    assert "enable_lora" not in LLM.made


def test_an_answer_that_ends_by_itself_is_not_cut(fake_vllm, tiny_folder):
    source = resolve(tiny_folder)
    engine = VllmEngine([source])
    first = engine.sample(source, QUESTIONS[:1], replace(GREEDY, samples=1))[0]
    prompts, parameters, _ = engine._engine.calls[0]
    second = engine._engine._decode(load(source, placement=CPU), prompts[0], parameters[0])[1]
    engine._stops.add(second)
    found = engine.sample(source, QUESTIONS[:1], replace(GREEDY, samples=1))[0]
    assert (first.truncated, first.n_tokens) == (True, GREEDY.max_new_tokens)
    assert not found.truncated
    assert found.n_tokens <= 2
    assert first.response.startswith(found.response)


def test_one_engine_serves_a_base_and_its_adapters(fake_vllm, tiny_folder, adapters):
    sources = [resolve(tiny_folder), *adapters]
    engine = VllmEngine(sources, max_length=100)
    assert {"enable_lora": True, "max_loras": 2, "max_lora_rank": 16, "max_model_len": 100}.items() <= LLM.made.items()
    rows = [engine.sample(source, QUESTIONS, GREEDY) for source in sources]
    for source, own in zip(sources, rows, strict=True):
        assert own == sample_responses(load(source, placement=CPU), QUESTIONS, GREEDY)
    assert rows[0] != rows[1] != rows[2]
    requests = [call[2] for call in engine._engine.calls]
    assert [request and request.lora_int_id for request in requests] == [None, 1, 2]
    with pytest.raises(UserError, match="made without the adapter"):
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
        assert run_command([
            "generate", "--model", tiny_folder, "--questions", str(questions), "--out", str(out), "--backend", backend,
            "--temperature", "0", "--max-new-tokens", "5", "--format", "plain", "json", "--dtype", "float32",
        ]) == 0  # fmt: skip
        tables.append(read_responses(out))
    assert tables[0] == tables[1]
    assert [(row.question_id, row.sample) for row in tables[0]] == [
        (name, sample) for name in ("a/1", "a/2", "a/1:json", "a/2:json") for sample in range(2)
    ]
    assert {row.group for row in tables[0]} == {"a"}


@pytest.mark.skipif(not (HAS_VLLM and torch.cuda.is_available()), reason="needs vLLM and a GPU")
def test_greedy_answers_of_the_real_engine_equal_those_of_transformers(tiny_folder):
    source = resolve(tiny_folder)
    found = VllmEngine([source], dtype="float32", max_length=128).sample(source, QUESTIONS, GREEDY)
    assert found == sample_responses(load(source), QUESTIONS, GREEDY)
