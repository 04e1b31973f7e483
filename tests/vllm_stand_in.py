"""A stand-in for vLLM and vllm-lens: it answers through transformers, and can go wrong as they have."""

import importlib.machinery
import pickle
import sys
import types
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from tiny import CPU

from emscope.organisms.blocks import visiting
from emscope.organisms.models import load


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
        extra_args=None,
    ):
        self.__dict__.update(locals())


class Engine:
    """What `LLM.llm_engine` is asked for."""

    def __init__(self, max_model_len, max_lora_rank):
        self.model_config = types.SimpleNamespace(max_model_len=max_model_len or 512)
        lora = types.SimpleNamespace(max_lora_rank=max_lora_rank)
        self.vllm_config = types.SimpleNamespace(lora_config=lora)
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
    deaf = False  # whether what hooks return is thrown away
    refuses = ""  # the reason for which it refuses every adapter
    served = staticmethod(lambda base, adapter: adapter)  # what is read where an adapter is asked for

    def __init__(self, model, **arguments):
        LLM.made, LLM.last = {"model": model, **arguments}, self
        self.model, self.calls = model, []
        self.llm_engine = Engine(arguments.get("max_model_len"), arguments.get("max_lora_rank"))
        self.hooks, self.saved = [], {}
        self.base = load(model, placement=CPU)

    def generate(self, prompts, sampling_params, *, lora_request=None, use_tqdm=True):
        if sampling_params[0].prompt_logprobs is None:
            self.calls.append((prompts, sampling_params, lora_request))
        adapters = lora_request if isinstance(lora_request, list) else [lora_request] * len(prompts)
        outputs, loaded = [], {self.model: self.base}
        for number, (prompt, wanted, adapter) in enumerate(zip(prompts, sampling_params, adapters, strict=True)):
            model = LLM.served(self.model, adapter.lora_path) if adapter else self.model
            if model not in loaded:
                loaded[model] = load(model, placement=CPU)
            outputs.append(self._answer(str(number), loaded[model], prompt, wanted))
        return outputs

    def _answer(self, name, organism, prompt, wanted):
        ids, own = list(prompt["prompt_token_ids"]), (wanted.extra_args or {}).get("apply_hooks", [])
        saved = [types.SimpleNamespace(saved={}, layer_idx=0) for _ in [*self.hooks, *own]]
        with running([*self.hooks, *own], saved, organism.model), torch.no_grad():
            logits, cache = self._step(organism, ids, None)
            table, tokens = logits.log_softmax(dim=-1).tolist(), []
            while len(tokens) < wanted.max_tokens and not set(tokens) & set(wanted.stop_token_ids):
                tokens.append(int(logits[-1].argmax()))
                if len(tokens) < wanted.max_tokens:
                    logits, cache = self._step(organism, tokens[-1:], cache)
        if self.hooks:
            self.saved[f"{name}-suffix"] = {str(row): context.saved for row, context in enumerate(saved)}
        read = None
        if wanted.prompt_logprobs is not None:
            rows = zip(table, ids[1:], strict=False)
            read = [None, *[{token: types.SimpleNamespace(logprob=row[token])} for row, token in rows]]
        return types.SimpleNamespace(
            request_id=name,
            prompt_token_ids=ids,
            prompt_logprobs=read,
            outputs=[types.SimpleNamespace(token_ids=tuple(tokens))],
            hook_results={str(row): context.saved for row, context in enumerate(saved)},
        )

    def _step(self, organism, ids, cache):
        found = organism.model(torch.tensor([ids]), past_key_values=cache, use_cache=True)
        return found.logits[0], found.past_key_values

    def register_hooks(self, hooks):
        self.hooks += [pickle.loads(pickle.dumps(hook)) for hook in hooks]  # they go to another process

    def clear_hooks(self):
        self.hooks, self.saved = [], {}

    def collective_rpc(self, method):
        if method == "get_all_hook_results":
            return [pickle.dumps(self.saved)]
        assert method == "clear_persistent_hook_results"
        self.saved = {}
        return [None]


@contextmanager
def running(hooks, contexts, model):
    """Have hooks called as vllm-lens calls them: what one raises is dropped, and the stream stays as it was."""

    def at(hook, context):
        def visit(block, hidden):
            context.layer_idx = block
            try:
                changed = hook.fn(context, hidden[0])
            except Exception:
                return None
            return None if changed is None or LLM.deaf else changed[None]

        return visit

    with ExitStack() as stack:
        for hook, context in zip(hooks, contexts, strict=True):
            site = "resid_pre" if hook.pre else "resid_post"
            stack.enter_context(visiting(model, hook.layer_indices, at(hook, context), site))
        yield


@dataclass
class Hook:
    fn: Any
    layer_indices: list
    pre: bool = False


def stand_in(monkeypatch):
    """Put the stand-in where vLLM and vllm-lens are imported from."""
    package, inputs, lora, request, lens = (
        types.ModuleType(name) for name in ("vllm", "vllm.inputs", "vllm.lora", "vllm.lora.request", "vllm_lens")
    )
    package.LLM, package.SamplingParams, request.LoRARequest = LLM, SamplingParams, LoRARequest
    inputs.TokensPrompt, lens.Hook = dict, Hook
    for module in (package, inputs, lora, request, lens):
        module.__spec__ = importlib.machinery.ModuleSpec(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    for name in ("VLLM_LENS_DISABLE", "VLLM_USE_V2_MODEL_RUNNER"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
