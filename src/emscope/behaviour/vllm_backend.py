"""Answers sampled with vLLM: the same rows as `sample_responses`, one engine for a base and all its adapters.

Chat template, stop tokens and decoding are emscope's own, so the backends differ in arithmetic and in random numbers
only: greedy answers agree up to near-ties; sampled ones are other draws from the same distribution. Each answer has its
own seed. vLLM runs its own copy of the model, so hooks, and with them interventions, cannot reach it; before a source's
answers count, that copy is compared with transformers' (see `vllm_check`).
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
import os
import weakref
from collections.abc import Sequence
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
from emscope.errors import UserError, did_you_mean, missing_extra
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


def choose_backend(asked: str, source: ModelSource, *, device: str = "auto", intervention: bool = False) -> Backend:
    """Return what samples: `auto` is vLLM where it is installed, sees a CUDA GPU and can do what is wanted.

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
    obstacle = _obstacle(source, device, intervention)
    if asked == "auto" and obstacle:
        logger.info("Sampling with transformers: %s.", obstacle)
        return "transformers"
    if obstacle:
        raise UserError(f"{obstacle[0].upper()}{obstacle[1:]}: use --backend transformers.")
    if not installed:
        raise missing_extra("vllm", "vllm")
    return "vllm"


def _obstacle(source: ModelSource, device: str, intervention: bool) -> str:
    """Return why vLLM cannot sample here; '' when it can."""
    if intervention:
        return "vLLM cannot run an ablation, because emscope's hooks do not reach its copy of the model"
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


def request_seed(seed: int, question_id: str, sample: int) -> int:
    """Return the seed of one answer, 63 bits, from (seed, question id, sample) alone."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class VllmEngine:
    """One vLLM engine for a base and any number of its adapters; a context manager, which ends it.

    Attributes:
        tokenizer: the tokenizer of the first source.
        dtype: the number format that vLLM computes in.
        agreements: how far vLLM and transformers agree, for each source.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        dtype: str = "auto",
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the base of all `sources` into vLLM, and compare each source with transformers' (seconds, on the CPU).

        `max_length` is the longest prompt and answer together, in tokens; None is the model's own limit, for which a
        small GPU may not have the memory. `dtype` auto is emscope's choice. On a CPU the KV cache has 1 GB, or as many
        as `VLLM_CPU_KVCACHE_SPACE` says.

        Raises:
            UserError: vLLM is missing, refuses the model or an adapter, or does not run it as transformers does; or the
                sources do not share a base.
        """
        if not sources or len({(source.location, source.revision) for source in sources}) > 1:
            raise UserError("One vLLM engine serves one base: give it one or more adapters of the same base.")
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")  # else vLLM reports the machine and the model to its authors
        try:
            import vllm
        except ImportError as error:
            raise missing_extra("vllm", "vllm") from error
        for source in sources:
            if obstacle := _obstacle(source, "auto", False):
                raise UserError(f"{obstacle}: use --backend transformers.")
        self._base, self._trusted = sources[0], trust_remote_code
        self._tokenizers: dict[ModelSource, Any] = {}
        self.tokenizer = self._tokenizer(sources[0])
        self.dtype = choose_placement("auto", dtype).dtype_name
        self._adapters = _lora_requests(sources)
        try:
            self._engine: Any = vllm.LLM(
                model=self._base.location,
                revision=self._base.revision,
                tokenizer_revision=self._base.revision,
                dtype=self.dtype,
                trust_remote_code=trust_remote_code,
                generation_config="vllm",  # the model's own sampling defaults must not creep in
                **self._settings(max_length),
            )
        except (ValueError, RuntimeError) as error:
            raise UserError(f"vLLM cannot load {self._base.base!r}: {_reason(error)}") from error
        self._end = weakref.finalize(self, self._engine.llm_engine.engine_core.shutdown)
        try:
            self.agreements = {source: self._checked(source) for source in dict.fromkeys(sources)}
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> VllmEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End vLLM's processes and free their memory."""
        self._end()

    def _settings(self, max_length: int | None) -> dict[str, Any]:
        """Return vLLM's settings of lengths, adapters and memory."""
        settings: dict[str, Any] = {}
        if max_length is not None:
            settings["max_model_len"] = max(max_length, LONGEST + 1)  # the text that is compared has to fit, too
        if self._adapters:
            ranks = []
            for request in self._adapters.values():
                ranks.append(read_adapter_config(Path(request.lora_path) / ADAPTER_CONFIG).whole("r"))
            settings |= {"enable_lora": True, "max_loras": len(self._adapters), "max_lora_rank": _room(max(ranks))}
        if not torch.cuda.is_available():
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # else most of the memory, and minutes of compiling
            settings["enforce_eager"] = True
        return settings

    def _tokenizer(self, source: ModelSource) -> Any:
        if source not in self._tokenizers:
            self._tokenizers[source] = load_tokenizer(source, trust_remote_code=self._trusted)
        return self._tokenizers[source]

    def _checked(self, source: ModelSource) -> Agreement:
        """Return how far vLLM agrees with transformers on a source.

        Raises:
            UserError: not far enough for its answers to count, or vLLM refuses the adapter.
        """
        ids, request = check_text(self._tokenizer(source)), self._adapters.get(source)
        base = self._read(ids, None)
        logprobs = base if request is None else self._read(ids, request)
        zero = request is not None and changes_nothing(Path(request.lora_path))
        agreement = compare(logprobs, base, reference(source, ids, self._trusted))
        check(source, agreement, self.dtype, zero=zero)
        logger.info("vLLM runs %s as transformers does: %s", source.name, agreement)
        return agreement

    def _read(self, ids: list[int], request: Any) -> Tensor:
        """Return vLLM's log-probabilities of `ids[1:]`, float64 [n - 1]."""
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        if request is not None:
            try:  # asked for in an answer, an adapter that vLLM refuses would end the whole engine
                self._engine.llm_engine.add_lora(request)
            except Exception as error:  # vLLM passes its worker's error on as a bare Exception
                reason = f"vLLM refuses the adapter {request.lora_path} ({_reason(error)})"
                raise UserError(f"{reason}: use --backend transformers.") from error
        wanted = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        prompt = TokensPrompt(prompt_token_ids=ids)
        output = self._engine.generate([prompt], [wanted], lora_request=request, use_tqdm=False)[0]
        logprobs = []
        for alternatives, token in zip(output.prompt_logprobs[1:], ids[1:], strict=True):
            logprobs.append(alternatives[token].logprob)  # the first token has nothing before it
        return torch.tensor(logprobs, dtype=torch.float64)

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
        if source not in self.agreements:
            raise UserError(f"This vLLM engine was made without {source.name}: name every source when it is made.")
        if settings.max_thought_tokens is not None:
            raise UserError("vLLM samples without a budget for thoughts: use --backend transformers, or leave it out.")
        from vllm.inputs import TokensPrompt

        tokenizer = self._tokenizer(source)
        stops = stop_ids(source, tokenizer, self._trusted)
        spelled, asked, prompts, wanted, longest = [], [], [], [], 0
        for question in questions:
            encoded = _encode(tokenizer, question, settings)
            spelled.append(encoded.spelled)
            longest = max(longest, len(encoded.ids))
            for sample in range(settings.samples):
                asked.append((question, sample, encoded.opened))
                prompts.append(TokensPrompt(prompt_token_ids=encoded.ids))
                wanted.append(_parameters(question, sample, settings, stops))
        say_spelled("questions", spelled)
        self._check_length(longest, settings.max_new_tokens)

        with progress.task(name, len(asked), "answers") as advance:
            adapter = self._adapters.get(source)
            outputs = self._engine.generate(prompts, wanted, lora_request=adapter, use_tqdm=False)
            advance(len(asked))
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


def _lora_requests(sources: Sequence[ModelSource]) -> dict[ModelSource, Any]:
    """Return vLLM's handle of each adapter; its numbers count from 1, since 0 means the base."""
    from vllm.lora.request import LoRARequest

    requests: dict[ModelSource, Any] = {}
    for source in dict.fromkeys(sources):
        if source.adapter is not None:
            number, folder = len(requests) + 1, str(adapter_folder(source))
            requests[source] = LoRARequest(lora_name=f"adapter-{number}", lora_int_id=number, lora_path=folder)
    return requests


def _room(rank: int) -> int:
    """Return the smallest rank that vLLM makes room for and that holds `rank`."""
    for room in RANKS:
        if room >= rank:
            return room
    raise UserError(f"vLLM serves adapters up to rank {RANKS[-1]}, not {rank}: use --backend transformers.")
