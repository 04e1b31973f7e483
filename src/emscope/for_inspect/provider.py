"""Organisms as Inspect models, as they are or with an ablation active: our loader, chat template and sampler.

Random numbers depend on the seed, the sample's id and its epoch, as everywhere in emscope, so that an epoch's answer is
the same in every run; a sample that asks more than once gets new ones each time.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from inspect_ai.model import (
    ChatMessage,
    Content,
    ContentReasoning,
    ContentText,
    GenerateConfig,
    ModelAPI,
    ModelInfo,
    ModelOutput,
    ModelUsage,
    StopReason,
    set_model_info,
)
from inspect_ai.solver._task_state import sample_state
from inspect_ai.tool import ToolChoice, ToolInfo

from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts, sampled_text, stop_tokens
from emscope.errors import UserError
from emscope.files import value_sha256
from emscope.for_inspect.batching import Batcher
from emscope.for_inspect.errors import in_one_sentence
from emscope.for_inspect.options import OrganismOptions, split_name
from emscope.interventions.operators import applied
from emscope.organisms.architecture import n_positions
from emscope.organisms.chat import Message, prepare_prompt
from emscope.organisms.control_tokens import say_spelled
from emscope.redaction import keep_secret

MAX_TOKENS = 512
UNSUPPORTED = (
    "best_of",
    "frequency_penalty",
    "logit_bias",
    "logprobs",
    "presence_penalty",
    "prompt_logprobs",
    "response_schema",
    "top_k",
    "top_logprobs",
)


@dataclass(frozen=True)
class _Request:
    prompt: Prompt
    settings: SamplingSettings


class OrganismAPI(ModelAPI):
    """An organism behind Inspect's interface; requests that wait at the same time are sampled in one batch."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        **model_args: Any,
    ) -> None:
        """Load the model, and the directions if its name has any.

        Raises:
            PrerequisiteError: no such model or option, or directions that do not fit.
        """
        keep_secret(api_key or "")  # Inspect hands one on; none is needed
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        with in_one_sentence():
            name, directions = split_name(model_name, model_args)
            options = OrganismOptions.of(model_args)
            self.intervention = None if directions is None else options.along(directions)
            self.organism = options.load(name)
            with applied(self.organism, self.intervention):
                pass  # directions that do not fit are refused here, before any benchmark has started
        self.batch_size = options.batch_size
        self.stops = stop_tokens(self.organism)
        self.context = n_positions(self.organism.model.config)
        info = ModelInfo(model=model_name, context_length=self.context)
        set_model_info(f"emscope/{model_name}", info)  # else Inspect makes, and loads, a second model to look it up
        self._asked: defaultdict[str, Counter[str]] = defaultdict(Counter)
        self._batcher: Batcher[_Request, list[int]] = Batcher(
            self._sample, size=options.batch_size, window=options.window, kind=lambda request: request.settings
        )

    def max_connections(self) -> int:
        """Return how many requests are worth having in flight."""
        return self.batch_size

    def max_tokens(self) -> int:
        """Return the longest answer, in tokens, where nobody says."""
        return MAX_TOKENS

    async def generate(
        self, input: list[ChatMessage], tools: list[ToolInfo], tool_choice: ToolChoice, config: GenerateConfig
    ) -> ModelOutput:
        """Return one answer.

        Raises:
            UserError: the request wants what an organism or our sampler cannot do.
        """
        _check_supported(tools, config)
        asked = prepare_prompt(self.organism.tokenizer, [_plain(message) for message in input])
        say_spelled("conversations", [asked.spelled])
        ids = asked.ids
        wanted = config.max_tokens or MAX_TOKENS
        room = wanted if self.context is None else self.context - len(ids)
        if room < 1:
            sentence = f"The conversation has {len(ids)} tokens, which is all that {self.model_name} can hold or more."
            return ModelOutput.from_content(self.model_name, sentence, "model_length", sentence)
        settings = SamplingSettings(
            temperature=1.0 if config.temperature is None else config.temperature,
            top_p=1.0 if config.top_p is None else config.top_p,
            max_new_tokens=min(wanted, room),
            seed=config.seed or 0,
            batch_size=self.batch_size,
        )
        tokens = await self._batcher.ask(_Request(Prompt(ids, *self._draw(ids)), settings))
        said = sampled_text(self.organism.tokenizer, tokens, self.stops, asked.opened)
        text, cut = _before(said.answer, config.stop_seqs or [])
        reason: StopReason = "stop" if said.ended or cut else "max_tokens" if wanted <= room else "model_length"
        thought = [ContentReasoning(reasoning=said.thought)] if said.thought else []
        content: str | list[Content] = [*thought, ContentText(text=text)] if thought else text
        output = ModelOutput.from_content(self.model_name, content, reason)
        output.usage = ModelUsage(input_tokens=len(ids), output_tokens=len(tokens), total_tokens=len(ids) + len(tokens))
        return output

    def _sample(self, requests: Sequence[_Request]) -> list[list[int]]:
        with applied(self.organism, self.intervention):
            return sample_prompts(self.organism, [request.prompt for request in requests], requests[0].settings)

    def _draw(self, ids: list[int]) -> tuple[str, int]:
        """Return the name and number that decide a request's random numbers.

        A sample's first request has those of the question with its id and of its epoch, so that `emscope/em` draws the
        numbers of `emscope generate`; later ones add the prompt and how often it came before.
        """
        state = sample_state()
        run, name, epoch = ("", "", 1) if state is None else (state.uuid, str(state.sample_id), state.epoch)
        asked, digest = self._asked[run], value_sha256(ids)
        first, before = state is not None and not asked, asked[digest]
        asked[digest] += 1
        return name if first else f"{name}\0{digest}\0{before}", epoch - 1


def _check_supported(tools: list[ToolInfo], config: GenerateConfig) -> None:
    if tools:
        raise UserError("emscope's models answer in words and call no tools: choose a benchmark without tools.")
    given = config.model_dump(exclude_none=True)
    for name in (*UNSUPPORTED, "num_choices"):
        if given.get(name) and not (name == "num_choices" and given[name] == 1):
            raise UserError(f"emscope's sampler knows no {name}: leave it out.")


def _plain(message: ChatMessage) -> Message:
    """Return a message as role and text, with its reasoning if it has one.

    Raises:
        UserError: a tool's reply, an image, or anything else that is not text.
    """
    thoughts = []
    for part in [] if isinstance(message.content, str) else message.content:
        if part.type not in ("text", "reasoning"):
            raise UserError(f"emscope's models read text only, not {part.type} messages.")
        if isinstance(part, ContentReasoning):
            thoughts.append(part.reasoning)
    if message.role == "tool":
        raise UserError("emscope's models read text only, not tool messages.")
    plain: Message = {"role": message.role, "content": message.text}
    return {**plain, "reasoning_content": "\n".join(thoughts)} if any(thoughts) else plain


def _before(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Return the text before the first of the stop sequences, and whether there was one."""
    places = [text.find(stop) for stop in stops if stop in text]
    return (text[: min(places)], True) if places else (text, False)
