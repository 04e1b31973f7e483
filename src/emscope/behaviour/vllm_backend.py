"""Answers sampled with vLLM: the same rows as `sample_responses`, one engine for a base and all its adapters.

Chat template, stop tokens and decoding are emscope's own, so the backends differ in arithmetic and in random numbers
only: greedy answers agree up to near-ties; sampled ones are other draws from the same distribution. Each answer has its
own seed. vLLM runs its own copy of the model; before a source's answers count, that copy is compared with transformers'
(see `vllm_check`). Functions at its blocks run through vllm-lens (see `vllm_lens`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sampling import longest_answer, response_of
from emscope.behaviour.vllm_check import (
    LONGEST,
    Agreement,
    changes_nothing,
    check,
    check_text,
    compare,
    foreign_weights,
    reference,
)
from emscope.behaviour.vllm_lens import MISSING, BlockCalls, Read, collected, lens_is_installed, read_of, switch
from emscope.behaviour.vllm_merge import MergedCopy
from emscope.behaviour.vllm_process import GPU_SHARE, EngineLog, sentence_of
from emscope.errors import UserError, did_you_mean, missing_extra
from emscope.organisms.architecture import text_config
from emscope.organisms.chat import ChatPrompt, messages_of, prepare_prompt
from emscope.organisms.chat import stop_ids as chat_stop_ids
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.device import choose_placement
from emscope.organisms.limits import read_adapter_config
from emscope.organisms.models import ModelSource, load_tokenizer
from emscope.organisms.sources import adapter_folder
from emscope.organisms.weights import load_config

logger = logging.getLogger(__name__)

Backend = Literal["transformers", "vllm"]
CHOICES = ("auto", "transformers", "vllm")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
AT_ONCE = 8
"""Adapters that vLLM applies side by side; it holds the others in the host's memory until it is their turn."""
READ_AT_ONCE = 32
"""Sequences that are read side by side under hooks of their own: vllm-lens looks through all of them at each block."""
UNSERVED = (
    "use_dora",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "target_parameters",
    "trainable_token_indices",
    "lora_bias",
    "layer_replication",
    "alora_invocation_tokens",
    "use_bdlora",
    "use_qalora",
    "ensure_weight_tying",
)
"""Settings of PEFT that vLLM 0.11 to 0.32 does not apply, or not in every version; some it ignores without a word."""
HARMLESS_STARTS = ("gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""Kinds of `init_lora_weights` that leave the base as it is; under others an adapter is for a changed base."""


def choose_backend(asked: str, source: ModelSource, *, device: str = "auto", hooks: bool = False) -> Backend:
    """Return what samples: `auto` is vLLM where it is installed, sees a CUDA GPU and can do what is wanted.

    `hooks` says that functions are to run at its blocks: an intervention, or the reading of activations.

    Raises:
        UserError: vLLM is asked for but missing, cannot do what is wanted, or the name is unknown.
    """
    if asked not in CHOICES:
        raise UserError(f"There is no backend {asked!r}.{did_you_mean(asked, CHOICES)}")
    if asked == "transformers":
        return "transformers"
    installed = importlib.util.find_spec("vllm") is not None
    if asked == "auto" and not (installed and torch.cuda.is_available() and device in ("auto", "cuda")):
        return "transformers"
    obstacle = _obstacle(source, device, hooks)
    if asked == "auto" and obstacle:
        logger.info("Sampling with transformers: %s.", obstacle)
        return "transformers"
    if obstacle:
        raise UserError(f"{obstacle[0].upper()}{obstacle[1:]}: use --backend transformers.")
    if not installed:
        raise missing_extra("vllm", "vllm")
    return "vllm"


def _obstacle(source: ModelSource, device: str, hooks: bool) -> str:
    """Return why vLLM cannot sample here; '' when it can."""
    if hooks and not lens_is_installed():
        return MISSING
    chosen = "cuda" if torch.cuda.is_available() else "cpu"
    if device not in ("auto", chosen):
        return f"vLLM chooses its own device (set CUDA_VISIBLE_DEVICES) and cannot be told {device!r}"
    if source.adapter is None:
        return ""
    folder = adapter_folder(source)
    config = read_adapter_config(folder / ADAPTER_CONFIG).fields
    odd = [name for name in UNSERVED if config.get(name)]
    start = config.get("init_lora_weights", True)
    if isinstance(start, str) and start.lower() not in HARMLESS_STARTS:
        odd.append(f"init_lora_weights={start}")
    if not odd and (foreign := foreign_weights(folder)):
        odd.append(f"weights that are not LoRA's, such as {foreign[0]}")
    if config.get("peft_type", "LORA") != "LORA" or config.get("bias", "none") != "none":
        odd.append("an adapter that is not plain LoRA")
    if config.get("r", 0) > RANKS[-1]:
        odd.append(f"rank {config['r']}")
    return f"vLLM cannot serve the adapter {source.adapter} ({', '.join(odd)})" if odd else ""


def merges(source: ModelSource) -> bool:
    """Say whether vLLM had better serve a single adapter merged into its base: on a CPU, where adapters cost most."""
    return source.adapter is not None and not torch.cuda.is_available()


@dataclass(frozen=True)
class Asking:
    """Questions to one source of an engine, and how its answers are sampled."""

    source: ModelSource
    questions: Sequence[Question]
    settings: SamplingSettings


@dataclass
class _Requests:
    """What vLLM is asked, one entry for each answer; `asked` are its question, sample and the marks it opened."""

    asked: list[tuple[Question, int, Any]]
    prompts: list[Any]
    wanted: list[Any]
    adapters: list[Any]
    longest: int = 0


@dataclass(frozen=True)
class _InForce:
    """Hooks that act on all that the engine reads, for which sources, and what is done with what they bring back."""

    name: str
    sources: tuple[ModelSource, ...]
    check: Callable[[Read], None]


def request_seed(seed: int, question_id: str, sample: int) -> int:
    """Return the seed of one answer, 63 bits, from (seed, question id, sample) alone."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class VllmEngine:
    """One vLLM engine for a base and any number of its adapters; a context manager, which ends it.

    Attributes:
        tokenizer: the tokenizer of the first source.
        dtype: the number format that vLLM computes in.
        takes_hooks: whether functions can run at its blocks.
        trusts_remote_code: whether it runs the code that a model brings.
        agreements: how far vLLM and transformers agree, for each source.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        dtype: str = "auto",
        max_length: int | None = None,
        trust_remote_code: bool = False,
        hooks: bool = False,
        merge: bool = False,
        spare: int = 0,
    ) -> None:
        """Load the base of all `sources` into vLLM, and compare each source with transformers' (seconds, on the CPU).

        Args:
            sources: a base and adapters of it, or adapters alone.
            dtype: the number format; auto is emscope's choice.
            max_length: the longest prompt and answer together, in tokens; None is the model's own limit, for which a
                small GPU may not have the memory.
            trust_remote_code: run the code that a model brings.
            hooks: make an engine at whose blocks functions can run (see `hooked`); it needs vllm-lens.
            merge: serve a single adapter merged into its base, which takes room for a copy on disk while it starts.
            spare: adapters that may be added later (see `add`).

        On a CPU the KV cache has 1 GB, or as many as `VLLM_CPU_KVCACHE_SPACE` says; on a GPU vLLM takes the share of
        the memory that `EMSCOPE_VLLM_GPU_MEMORY` says.

        Raises:
            UserError: vLLM is missing, has no memory, refuses the model or an adapter, or does not run it as
                transformers does; or the sources do not share a base.
        """
        if not sources or len({(source.location, source.revision) for source in sources}) > 1:
            raise UserError("One vLLM engine serves one base: give it one or more adapters of the same base.")
        if merge and (len(set(sources)) > 1 or sources[0].adapter is None or spare):
            raise UserError("An engine with a merged adapter serves this one adapter: leave merge out for several.")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # else vLLM reports the machine and the model to its authors
        switch(hooks)
        self._log = EngineLog()
        vllm = self._imported()
        for source in sources:
            if obstacle := _obstacle(source, "auto", hooks):
                raise UserError(f"{obstacle}: use --backend transformers.")
        self._base, self.trusts_remote_code, self.takes_hooks = sources[0], trust_remote_code, hooks
        self._tokenizers: dict[ModelSource, Any] = {}
        self._in_force: _InForce | None = None
        self.tokenizer = self.tokenizer_of(sources[0])
        self.dtype = choose_placement("auto", dtype).dtype_name
        merged = MergedCopy.of(sources[0], self.dtype, check_text(self.tokenizer), trust_remote_code) if merge else None
        self._adapters = {} if merged else _lora_requests(sources)
        self._spare, self._numbered = spare, len(self._adapters)
        try:
            self._engine: Any = self._started(vllm, merged, max_length)
            self._end = weakref.finalize(self, _end, self._engine.llm_engine.engine_core.shutdown, self._log)
        finally:
            if merged is not None:
                merged.remove()
        try:
            self.agreements: dict[ModelSource, Agreement] = {}
            for source in dict.fromkeys(sources):
                self.agreements[source] = self._checked(source, merged)
        except BaseException:
            self.close()
            raise

    def _imported(self) -> Any:
        """Return the package vllm."""
        try:
            with self._log.inherited():  # it takes its logging as it is imported
                import vllm
        except ImportError as error:
            raise missing_extra("vllm", "vllm") from error
        return vllm

    def _started(self, vllm: Any, merged: MergedCopy | None, max_length: int | None) -> Any:
        """Return vLLM's engine.

        Raises:
            UserError: it does not start, for want of memory or for another reason.
        """
        own = merged is None
        try:
            with self._log.inherited():
                return vllm.LLM(
                    model=self._base.location if merged is None else str(merged.folder),
                    revision=self._base.revision if own else None,
                    tokenizer_revision=self._base.revision if own else None,
                    dtype=self.dtype,
                    trust_remote_code=self.trusts_remote_code,
                    generation_config="vllm",  # the model's own sampling defaults must not creep in
                    **self._settings(max_length),
                )
        except (ValueError, RuntimeError, MemoryError) as error:
            reason = _reason(error)
            if "Engine core initialization failed" in reason:  # the engine's own process knows why
                reason = self._log.reason()
            raise UserError(sentence_of(f"vLLM cannot load {self._base.base!r}", reason)) from error

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End vLLM's processes and free their memory."""
        self._end()

    def _settings(self, max_length: int | None) -> dict[str, Any]:
        """Return vLLM's settings of lengths, adapters and memory."""
        settings: dict[str, Any] = {"enable_prefix_caching": True}
        if max_length is not None:
            settings["max_model_len"] = max(max_length, LONGEST + 1)  # the text that is compared has to fit, too
        if self._adapters or self._spare:
            held = len(self._adapters) + self._spare
            settings |= {"enable_lora": True, "max_loras": min(held, AT_ONCE), "max_lora_rank": self._rank()}
            settings["max_cpu_loras"] = held
        if self.takes_hooks:
            settings["enable_chunked_prefill"] = False  # a hook tells prompt from answer by its first call
        if torch.cuda.is_available():
            if GPU_SHARE in os.environ:
                settings["gpu_memory_utilization"] = _share(os.environ[GPU_SHARE])
        else:
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # else most of the memory, and minutes of compiling
            settings["enforce_eager"] = True
        return settings

    def _rank(self) -> int:
        """Return the rank that the engine has room for: that of its adapters, and 32 at least for those added later."""
        ranks = [32] if self._spare else []
        for request in self._adapters.values():
            ranks.append(_rank_of(request))
        return _room(max(ranks))

    @cached_property
    def model_config(self) -> Any:
        """Transformers' configuration of the base."""
        return load_config(self._base, trust_remote_code=self.trusts_remote_code)

    @property
    def n_blocks(self) -> int:
        """How many blocks the model has."""
        return int(text_config(self.model_config).num_hidden_layers)

    @property
    def width(self) -> int:
        """The model's d_model."""
        return int(text_config(self.model_config).hidden_size)

    def tokenizer_of(self, source: ModelSource) -> Any:
        """Return a source's tokenizer."""
        if source not in self._tokenizers:
            self._tokenizers[source] = load_tokenizer(source, trust_remote_code=self.trusts_remote_code)
        return self._tokenizers[source]

    def add(self, source: ModelSource) -> Agreement:
        """Serve one more adapter of the same base from now on; it is compared first, like those named at the start.

        Raises:
            UserError: the engine has no room left, the adapter is of a higher rank or of another base, or vLLM does
                not run it as transformers does. The engine goes on with the others.
        """
        if source in self.agreements:
            return self.agreements[source]
        if (source.location, source.revision) != (self._base.location, self._base.revision) or source.adapter is None:
            raise UserError(f"This vLLM engine serves adapters of {self._base.base}, and {source.name} is none.")
        if obstacle := _obstacle(source, "auto", False):
            raise UserError(f"{obstacle}: use --backend transformers.")
        if self._spare < 1:
            raise UserError(
                f"This vLLM engine has no room for {source.name}: make it with spare, the adapters to come."
            )
        request = _lora_request(source, self._numbered + 1)
        room = self._engine.llm_engine.vllm_config.lora_config.max_lora_rank
        if _rank_of(request) > room:
            raise UserError(
                f"This vLLM engine has room for rank {room}, not {_rank_of(request)}: name {source.name} first."
            )
        self._adapters[source] = request
        self._numbered += 1  # a number is never used again, since vLLM would take the first adapter that had it
        try:
            self.agreements[source] = self._checked(source, None)
        except UserError:
            del self._adapters[source]
            raise
        self._spare -= 1
        return self.agreements[source]

    def _checked(self, source: ModelSource, merged: MergedCopy | None) -> Agreement:
        """Return how far vLLM agrees with transformers on a source.

        Raises:
            UserError: not far enough for its answers to count, or vLLM refuses the adapter.
        """
        ids, request = check_text(self.tokenizer_of(source)), self._adapters.get(source)
        zero = source.adapter is not None and changes_nothing(adapter_folder(source))
        if merged is not None:
            agreement = merged.agreement(self.log_probabilities(source, ids))
        else:
            base = self._read(ids, None)
            logprobs = base if request is None else self._read(ids, request)
            agreement = compare(logprobs, base, reference(source, ids, self.trusts_remote_code))
        check(source, agreement, self.dtype, zero=zero)
        logger.info("vLLM runs %s as transformers does: %s", source.name, agreement)
        return agreement

    def log_probabilities(self, source: ModelSource, ids: list[int]) -> Tensor:
        """Return vLLM's log-probabilities of `ids[1:]`, float64 [n - 1], under the hooks that are in force."""
        return self._read(ids, self._adapters.get(source))

    def _read(self, ids: list[int], request: Any) -> Tensor:
        """Return vLLM's log-probabilities of `ids[1:]`, float64 [n - 1]."""
        from vllm import SamplingParams

        if request is not None:
            try:  # asked for in an answer, an adapter that vLLM refuses would end the whole engine
                self._engine.llm_engine.add_lora(request)
            except Exception as error:  # vLLM passes its worker's error on as a bare Exception
                reason = f"vLLM refuses the adapter {request.lora_path} ({_reason(error)})"
                raise UserError(f"{reason}: use --backend transformers.") from error
        wanted = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        output = self._generated([self._prompt(ids)], [wanted], request)[0]
        logprobs = []
        for alternatives, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True):
            logprobs.append(alternatives[token].logprob)  # the first token has nothing before it
        return torch.tensor(logprobs, dtype=torch.float64)

    def _prompt(self, ids: list[int]) -> Any:
        """Return a prompt; under hooks it is cached apart, since its keys and values are changed ones."""
        from vllm.inputs import TokensPrompt

        if self._in_force is None:
            return TokensPrompt(prompt_token_ids=ids)
        return TokensPrompt(prompt_token_ids=ids, cache_salt=self._in_force.name)

    def _generated(self, prompts: list[Any], wanted: list[Any], adapters: Any) -> list[Any]:
        """Return vLLM's outputs; what hooks brought back is checked.

        Raises:
            UserError: the engine ended, or a hook did not act.
        """
        try:
            outputs: list[Any] = self._engine.generate(prompts, wanted, lora_request=adapters, use_tqdm=False)
        except Exception as error:
            if type(error).__name__ != "EngineDeadError":
                raise
            reason = self._log.reason()
            self.close()
            raise UserError(sentence_of("vLLM's engine ended while it sampled", reason)) from error
        if self._in_force is not None:
            found = self._saved(outputs)
            for output in outputs:
                self._in_force.check(read_of(output, found.get(output.request_id, {})))
        return outputs

    def _saved(self, outputs: Sequence[Any]) -> dict[str, dict[str, dict[str, Any]]]:
        """Return what the hooks in force saved, by request, and have the workers forget it."""
        ranks = self._engine.collective_rpc("get_all_hook_results")
        self._engine.collective_rpc("clear_persistent_hook_results")
        return collected(ranks, [output.request_id for output in outputs])

    @contextmanager
    def hooked(
        self, calls: BlockCalls, name: str, check: Callable[[Read], None], sources: Sequence[ModelSource]
    ) -> Iterator[None]:
        """Have a function run at blocks for all that the engine reads inside this context.

        Args:
            calls: the function and its blocks.
            name: tells its changes from others', in the cache of prompts.
            check: looks at what the function saved of each request, and raises where it did not act.
            sources: which of the engine's sources may be asked meanwhile.

        Raises:
            UserError: the engine was made without hooks, others are in force, or vLLM cannot take the function.
        """
        if not self.takes_hooks or self._in_force is not None:
            raise UserError("A vLLM engine runs functions at its blocks one at a time, and if it was made with hooks.")
        self._register(calls)
        self._in_force = _InForce(name, tuple(sources), check)
        try:
            yield
        finally:
            self._in_force = None
            if self._end.alive:
                self._engine.clear_hooks()

    def _register(self, calls: BlockCalls) -> None:
        try:
            self._engine.register_hooks(calls.hooks())
        except Exception as error:  # cloudpickle's here, and what the worker says of its own
            reason = self._log.reason() or _reason(error)
            self._engine.clear_hooks()
            raise UserError(f"vLLM cannot take this function ({reason}): use --backend transformers.") from error

    def read_each(
        self,
        source: ModelSource,
        sequences: Sequence[list[int]],
        calls: Sequence[BlockCalls],
        advance: Callable[[int], None],
    ) -> Iterator[Read]:
        """Yield what a function of its own saved of each sequence of tokens, in their order.

        Raises:
            UserError: a sequence that leaves no room, or an engine that was made without hooks.
        """
        from vllm import SamplingParams

        if not self.takes_hooks:
            raise UserError("This vLLM engine reads no activations: make it with hooks.")
        self._check_length(max(map(len, sequences), default=0), 1)
        for start in range(0, len(sequences), READ_AT_ONCE):
            some = slice(start, start + READ_AT_ONCE)
            prompts = [self._prompt(ids) for ids in sequences[some]]
            wanted = []
            for own in calls[some]:
                extra = {"apply_hooks": own.hooks()}
                wanted.append(SamplingParams(temperature=0, max_tokens=1, detokenize=False, extra_args=extra))
            for output in self._generated(prompts, wanted, self._adapters.get(source)):
                yield read_of(output, getattr(output, "hook_results", {}))
            advance(len(prompts))

    def sample(
        self,
        source: ModelSource,
        questions: Sequence[Question],
        settings: SamplingSettings,
        *,
        name: str = "sampling",
    ) -> list[Response]:
        """Return `settings.samples` answers of one source to each question, in the order of the questions.

        `settings.batch_size` is not used: vLLM fills its own batches.

        Raises:
            UserError: a source that the engine was not made for, or a prompt that leaves no room for an answer.
        """
        return self.sample_each([Asking(source, questions, settings)], name=name)[0]

    def sample_each(self, askings: Sequence[Asking], *, name: str = "sampling") -> list[list[Response]]:
        """Return the answers of several sources, asked side by side, in the order of `askings`.

        Raises:
            UserError: a source that the engine was not made for, or a prompt that leaves no room for an answer.
        """
        requests = _Requests([], [], [], [])
        for asking in askings:
            self._add_requests(requests, asking)
        one = len({id(adapter) for adapter in requests.adapters}) == 1
        with progress.task(name, len(requests.asked), "answers") as advance:
            adapters = requests.adapters[0] if one else requests.adapters
            outputs = self._generated(requests.prompts, requests.wanted, adapters) if requests.asked else []
            advance(len(requests.asked))
        found, place = [], 0
        for asking in askings:
            end = place + len(asking.questions) * asking.settings.samples
            found.append(self._responses(asking.source, requests.asked[place:end], outputs[place:end]))
            place = end
        return found

    def _add_requests(self, requests: _Requests, asking: Asking) -> None:
        """Add the requests of one source, after its length is known to fit."""
        source, settings = asking.source, asking.settings
        if source not in self.agreements:
            raise UserError(f"This vLLM engine was made without {source.name}: name every source when it is made.")
        if self._in_force is not None and source not in self._in_force.sources:
            raise UserError(f"The function at vLLM's blocks was not proven on {source.name}: name every source for it.")
        if settings.max_thought_tokens is not None:
            raise UserError("vLLM samples without a budget for thoughts: use --backend transformers, or leave it out.")

        tokenizer = self.tokenizer_of(source)
        stops = stop_ids(source, tokenizer, self.trusts_remote_code)
        spelled, longest = [], 0
        for question in asking.questions:
            encoded = _encode(tokenizer, question, settings)
            spelled.append(encoded.spelled)
            longest = max(longest, len(encoded.ids))
            for sample in range(settings.samples):
                requests.asked.append((question, sample, encoded.opened))
                requests.prompts.append(self._prompt(encoded.ids))
                requests.wanted.append(_parameters(question, sample, settings, stops))
                requests.adapters.append(self._adapters.get(source))
        say_spelled("questions", spelled)
        self._check_length(longest, settings.max_new_tokens)

    def _responses(self, source: ModelSource, asked: Sequence[Any], outputs: Sequence[Any]) -> list[Response]:
        tokenizer = self.tokenizer_of(source)
        stops = stop_ids(source, tokenizer, self.trusts_remote_code)
        responses = []
        for (question, sample, opened), output in zip(asked, outputs, strict=True):
            tokens = list(output.outputs[0].token_ids)
            responses.append(response_of(tokenizer, question, sample, tokens, stops, opened))
        return responses

    def _check_length(self, longest_prompt: int, n: int) -> None:
        """Refuse what vLLM would cut short: an answer ends where its room does, and would count as a short one."""
        room = self._engine.llm_engine.model_config.max_model_len
        if longest_prompt + n > room:
            raise UserError(
                f"A prompt of {longest_prompt} tokens and {n} new ones exceed the {room} tokens that this vLLM engine "
                "has room for: lower max_new_tokens, shorten the question, or raise max_length."
            )


def _parameters(question: Question, sample: int, settings: SamplingSettings, stops: set[int]) -> Any:
    """Return vLLM's settings of one answer."""
    from vllm import SamplingParams

    greedy = settings.temperature == 0
    return SamplingParams(
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_new_tokens,
        seed=None if greedy else request_seed(settings.seed, question.id, sample),
        stop_token_ids=sorted(stops),
        ignore_eos=True,  # `stops` are all of them; vLLM would add the base tokenizer's to an adapter's own
        detokenize=False,  # emscope decodes, so that both backends give the same text for the same tokens
    )


def _reason(error: BaseException) -> str:
    """Return the line of one of vLLM's errors that says what is wrong."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    told = lines[1] if len(lines) > 1 and "validation error" in lines[0] else lines[0]
    return told.removeprefix("Value error, ").partition(" [type=")[0].partition(", please check the stack")[0]


def longest_request(
    source: ModelSource,
    questions: Sequence[Question],
    settings: Sequence[SamplingSettings],
    *,
    trust_remote_code: bool = False,
) -> int:
    """Return the tokens of the longest prompt and answer together; `settings` holds one for each question."""
    tokenizer = load_tokenizer(source, trust_remote_code=trust_remote_code)
    longest = 1
    for question, wanted in zip(questions, settings, strict=True):
        longest = max(longest, len(_encode(tokenizer, question, wanted).ids) + longest_answer(wanted))
    return longest


def stop_ids(source: ModelSource, tokenizer: Any, trust_remote_code: bool = False) -> set[int]:
    """Return the tokens that end an answer, as transformers would take them from the model's files."""
    from transformers import GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(source.location, revision=source.revision)
    except OSError:
        config = load_config(source, trust_remote_code=trust_remote_code)
        generation = GenerationConfig.from_model_config(config)
    return chat_stop_ids(tokenizer, generation.eos_token_id)


def _encode(tokenizer: Any, question: Question, settings: SamplingSettings) -> ChatPrompt:
    messages = messages_of(question.text, system=question.system_after(settings.system))
    return prepare_prompt(tokenizer, messages, settings.enable_thinking)


def _end(shutdown: Callable[[], None], log: EngineLog) -> None:
    shutdown()
    log.remove()


def _lora_requests(sources: Sequence[ModelSource]) -> dict[ModelSource, Any]:
    """Return vLLM's handle of each adapter; its numbers count from 1, since 0 means the base."""
    requests: dict[ModelSource, Any] = {}
    for source in dict.fromkeys(sources):
        if source.adapter is not None:
            requests[source] = _lora_request(source, len(requests) + 1)
    return requests


def _lora_request(source: ModelSource, number: int) -> Any:
    from vllm.lora.request import LoRARequest

    return LoRARequest(lora_name=f"adapter-{number}", lora_int_id=number, lora_path=str(adapter_folder(source)))


def _rank_of(request: Any) -> int:
    """Return the rank of an adapter."""
    return read_adapter_config(Path(request.lora_path) / ADAPTER_CONFIG).whole("r")


def _share(text: str) -> float:
    """Return the share of a GPU's memory that vLLM may take.

    Raises:
        UserError: it is no number above 0 and up to 1.
    """
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise UserError(f"{GPU_SHARE} is a share of the GPU's memory, above 0 and up to 1, not {text!r}.")
    return share


def _room(rank: int) -> int:
    """Return the smallest rank that vLLM makes room for and that holds `rank`."""
    for room in RANKS:
        if room >= rank:
            return room
    raise UserError(f"vLLM serves adapters up to rank {RANKS[-1]}, not {rank}: use --backend transformers.")
