"""Answers sampled with vLLM: the same rows as `sample_responses`, one engine for a base and all its adapters.

Chat template, stop tokens and decoding are emscope's own, so the backends differ in arithmetic and in random numbers
only: greedy answers agree up to near-ties; sampled ones are other draws from the same distribution. Each answer has its
own seed. vLLM runs its own copy of the model, so hooks, and with them interventions, cannot reach it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sampling import longest_answer, response_of
from emscope.errors import UserError, did_you_mean, missing_extra
from emscope.files import read_json
from emscope.organisms.chat import ChatPrompt, messages_of, prepare_prompt
from emscope.organisms.chat import stop_ids as chat_stop_ids
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.models import ModelSource, load_tokenizer

logger = logging.getLogger(__name__)

Backend = Literal["transformers", "vllm"]
CHOICES = ("auto", "transformers", "vllm")
RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
UNSERVED = ("use_dora", "modules_to_save", "rank_pattern", "alpha_pattern")


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
    if device not in ("auto", "cuda"):
        return f"vLLM chooses its own device (set CUDA_VISIBLE_DEVICES) and cannot be told {device!r}"
    if source.adapter is None:
        return ""
    config = read_json(adapter_folder(source) / ADAPTER_CONFIG)
    odd = [name for name in UNSERVED if config.get(name)]
    if config.get("peft_type", "LORA") != "LORA" or config.get("bias", "none") != "none":
        odd.append("an adapter that is not plain LoRA")
    if config.get("r", 0) > RANKS[-1]:
        odd.append(f"rank {config['r']}")
    return f"vLLM cannot serve the adapter {source.adapter} ({', '.join(odd)})" if odd else ""


def adapter_folder(source: ModelSource) -> Path:
    """Return the local folder of a source's adapter; one on the hub is fetched, because vLLM takes no revision."""
    folder = Path(str(source.adapter)).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(str(source.adapter), revision=source.adapter_revision))


def request_seed(seed: int, question_id: str, sample: int) -> int:
    """Return the seed of one answer, 63 bits, from (seed, question id, sample) alone."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class VllmEngine:
    """One vLLM engine for a base and any number of its adapters.

    Attributes:
        tokenizer: the base's tokenizer.
    """

    def __init__(
        self,
        sources: Sequence[ModelSource],
        *,
        dtype: str = "auto",
        max_length: int | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        """Load the base of all `sources` into vLLM.

        `max_length` is the longest prompt and answer together, in tokens; None is the model's own limit, for which a
        small GPU may not have the memory.

        Raises:
            UserError: vLLM is missing or refuses the model, or the sources do not share a base.
        """
        if not sources or len({(source.location, source.revision) for source in sources}) > 1:
            raise UserError("One vLLM engine serves one base: give it one or more adapters of the same base.")
        try:
            import vllm
        except ImportError as error:
            raise missing_extra("vllm", "vllm") from error
        base = sources[0]
        self.tokenizer = load_tokenizer(base)
        self._stops = stop_ids(base, self.tokenizer, trust_remote_code)
        self._adapters = _lora_requests(sources)
        arguments: dict[str, Any] = {"max_model_len": max_length} if max_length is not None else {}
        if self._adapters:
            ranks = [int(read_json(Path(item.lora_path) / ADAPTER_CONFIG)["r"]) for item in self._adapters.values()]
            arguments |= {"enable_lora": True, "max_loras": len(self._adapters), "max_lora_rank": _room(max(ranks))}
        try:
            self._engine: Any = vllm.LLM(
                model=base.location,
                revision=base.revision,
                tokenizer_revision=base.revision,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
                generation_config="vllm",  # the model's own sampling defaults must not creep in
                **arguments,
            )
        except ValueError as error:
            first = str(error).strip().splitlines()[0]
            raise UserError(f"vLLM cannot load {base.base!r}: {first}") from error

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
            UserError: a source that the engine was not made for.
        """
        if source.adapter is not None and source not in self._adapters:
            raise UserError(f"This vLLM engine was made without the adapter {source.adapter}.")
        if settings.max_thought_tokens is not None:
            raise UserError("vLLM samples without a budget for thoughts: use --backend transformers, or leave it out.")
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        asked = [(question, sample) for question in questions for sample in range(settings.samples)]
        encoded = [_encode(self.tokenizer, question, settings) for question in questions]
        prompts = [prompt for prompt in encoded for _ in range(settings.samples)]
        with progress.task(name, len(asked), "answers") as advance:
            outputs = self._engine.generate(
                [TokensPrompt(prompt_token_ids=prompt.ids) for prompt in prompts],
                [SamplingParams(**self._parameters(question, sample, settings)) for question, sample in asked],
                lora_request=self._adapters.get(source),
                use_tqdm=False,
            )
            advance(len(asked))
        return [
            response_of(self.tokenizer, question, sample, list(output.outputs[0].token_ids), self._stops, prompt.opened)
            for (question, sample), prompt, output in zip(asked, prompts, outputs, strict=True)
        ]

    def _parameters(self, question: Question, sample: int, settings: SamplingSettings) -> dict[str, Any]:
        greedy = settings.temperature == 0
        return {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_tokens": settings.max_new_tokens,
            "seed": None if greedy else request_seed(settings.seed, question.id, sample),
            "stop_token_ids": sorted(self._stops),
            "detokenize": False,  # emscope decodes, so that both backends give the same text for the same tokens
        }


def longest_request(source: ModelSource, questions: Sequence[Question], settings: Sequence[SamplingSettings]) -> int:
    """Return the tokens of the longest prompt and answer together; `settings` holds one for each question."""
    tokenizer = load_tokenizer(source)
    pairs = zip(questions, settings, strict=True)
    return max(
        (len(_encode(tokenizer, item, wanted).ids) + longest_answer(wanted) for item, wanted in pairs), default=1
    )


def stop_ids(source: ModelSource, tokenizer: Any, trust_remote_code: bool = False) -> set[int]:
    """Return the tokens that end an answer, as transformers would take them from the model's files."""
    from transformers import AutoConfig, GenerationConfig

    try:
        generation = GenerationConfig.from_pretrained(source.location, revision=source.revision)
    except OSError:
        config = AutoConfig.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=trust_remote_code
        )
        generation = GenerationConfig.from_model_config(config)
    return chat_stop_ids(tokenizer, generation.eos_token_id)


def _encode(tokenizer: Any, question: Question, settings: SamplingSettings) -> ChatPrompt:
    messages = messages_of(question.text, system=question.system_after(settings.system))
    return prepare_prompt(tokenizer, messages, settings.enable_thinking)


def _lora_requests(sources: Sequence[ModelSource]) -> dict[ModelSource, Any]:
    """Return vLLM's handle of each adapter; its numbers count from 1, since 0 means the base."""
    from vllm.lora.request import LoRARequest

    adapters = [source for source in dict.fromkeys(sources) if source.adapter is not None]
    return {
        source: LoRARequest(lora_name=f"adapter-{number}", lora_int_id=number, lora_path=str(adapter_folder(source)))
        for number, source in enumerate(adapters, 1)
    }


def _room(rank: int) -> int:
    """Return the smallest rank that vLLM makes room for and that holds `rank`."""
    fitting = [room for room in RANKS if room >= rank]
    if not fitting:
        raise UserError(f"vLLM serves adapters up to rank {RANKS[-1]}, not {rank}: use --backend transformers.")
    return fitting[0]
