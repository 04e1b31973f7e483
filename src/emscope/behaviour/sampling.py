"""Answers of an organism to questions or to encoded prompts: batched, seeded per answer, fast on a CPU.

Every random number depends only on (seed, question id, sample), so an answer does not depend on what else is in its
batch. What remains is arithmetic: in float32 answers are the same at any batch size up to near-ties; in bf16 a matrix
product may round differently at another batch size, and a sampled answer may then branch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.shots import after_shots
from emscope.behaviour.thought_budget import MARK_ROOM, ThoughtBudget
from emscope.organisms.batching import rounded
from emscope.organisms.chat import Message, messages_of, prepare_prompt, stop_ids
from emscope.organisms.control_tokens import say_spelled
from emscope.organisms.decoding import Decoding, decoding_batches
from emscope.organisms.models import Organism, check_positions, finite_logits
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.thoughts import ThoughtMarks, clean_answer, clean_thought, find_thought
from emscope.organisms.token_positions import prompts_end_at

ROW_STEP = 16
LOGITS_AT_ONCE = 1 << 20  # of those from which tokens are chosen: as many as a processor's caches hold
WORTH_PACKING = 1024  # tokens that may be sampled
OnRows = Callable[[Sequence[int]], None]


@dataclass(frozen=True)
class Prompt:
    """Tokens to go on from (see `prepare_prompt`); with the seed, `name` and `sample` decide the random numbers.

    `opened` are the marks of the thought in which the prompt ends, if it does.
    """

    ids: list[int]
    name: str
    sample: int = 0
    opened: ThoughtMarks | None = None


@dataclass
class _Row:
    """An answer in the making, the number of its prompt, and that of the shared beginning from which it goes on."""

    number: int
    prompt: list[int]
    uniforms: np.ndarray
    tokens: list[int]
    begins_with: int
    budget: ThoughtBudget | None = None

    @property
    def part(self) -> list[Any]:
        """The answer as it is kept: its tokens, and what its budget came to."""
        return [self.tokens, None if self.budget is None else self.budget.forced]

    def finished(self, stops: set[int]) -> bool:
        """Say whether nothing more is to be sampled."""
        return self.tokens[-1] in stops or (self.budget is not None and self.budget.done)

    def take(self, token: int, stops: set[int]) -> int:
        """Add a token, or what its budget puts in its place, unless the answer is finished; returns the token added."""
        if self.tokens and self.finished(stops):
            return token
        self.tokens.append(token if self.budget is None else self.budget.take(token))
        return self.tokens[-1]


@dataclass(frozen=True)
class SampledText:
    """What an answer's tokens say.

    Attributes:
        thought: the thought, '' without one.
        answer: the answer; '' where the thought never closed.
        n_thought_tokens: tokens of the thought, marks included.
        ended: a stop token ended it, and not within the thought.
    """

    thought: str
    answer: str
    n_thought_tokens: int
    ended: bool


def uniforms_for(seed: int, question_id: str, sample: int, n: int) -> np.ndarray:
    """Return the `n` uniform numbers of one answer, float64 in [0, 1)."""
    digest = hashlib.sha256(f"{seed}\0{question_id}\0{sample}".encode()).digest()
    key = np.frombuffer(digest[:16], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n)


def sample_responses(
    organism: Organism,
    questions: Sequence[Question],
    settings: SamplingSettings,
    *,
    name: str = "sampling",
    on_rows: OnRows | None = None,
    shots: Sequence[Message] = (),
    kinds: Sequence[int] | None = None,
) -> list[Response]:
    """Return `settings.samples` answers to each question, in the order of the questions.

    `shots` are turns that stand before every question (see `shots_of`). Call it inside an intervention's context to
    sample with the intervention active; `on_rows` and `kinds` are `sample_prompts`'s, and count the answers in the
    order in which they are returned.
    """
    spelled, asked, prompts = [], [], []
    for question in questions:
        messages = after_shots(messages_of(question.text, system=question.system_after(settings.system)), shots)
        encoded = prepare_prompt(organism.tokenizer, messages, settings.enable_thinking)
        spelled.append(encoded.spelled)
        for sample in range(settings.samples):
            asked.append(question)
            prompts.append(Prompt(encoded.ids, question.id, sample, encoded.opened))
    say_spelled("questions", spelled)

    stops, responses = stop_tokens(organism), []
    answers = _sampled(organism, prompts, settings, name, on_rows, kinds)
    for question, prompt, answer in zip(asked, prompts, answers, strict=True):
        forced = answer.budget is not None and answer.budget.forced
        responses.append(
            response_of(organism.tokenizer, question, prompt.sample, answer.tokens, stops, prompt.opened, forced=forced)
        )
    return responses


def sample_prompts(
    organism: Organism,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    *,
    name: str = "sampling",
    on_rows: OnRows | None = None,
    kinds: Sequence[int] | None = None,
) -> list[list[int]]:
    """Return the tokens that follow each prompt, in order, a stop token at the end included.

    `settings.samples` and `settings.system` play no part: the prompts say it all. `on_rows` is told, whenever that
    changes, which prompt each batch row of the next forward passes belongs to, so that rows can be treated apart. What
    the prompts begin with is then computed once for each of the `kinds`, which number the prompts that are treated
    alike, or, where these are not told, for every prompt.

    Raises:
        UserError: a prompt and its answer would be longer than the model can read.
    """
    return [row.tokens for row in _sampled(organism, prompts, settings, name, on_rows, kinds)]


def longest_answer(settings: SamplingSettings) -> int:
    """Return the most tokens that an answer may take, its thought and the marks around it included."""
    thought = settings.max_thought_tokens
    return settings.max_new_tokens if thought is None else settings.max_new_tokens + thought + MARK_ROOM


def _sampled(
    organism: Organism,
    prompts: Sequence[Prompt],
    settings: SamplingSettings,
    name: str,
    on_rows: OnRows | None,
    kinds: Sequence[int] | None,
) -> list[_Row]:
    """Return the rows of all prompts with their answers' tokens."""
    n, rows = longest_answer(settings), []
    first_of, begin_with = _beginnings(len(prompts), kinds)
    for number, prompt in enumerate(prompts):
        uniforms = uniforms_for(settings.seed, prompt.name, prompt.sample, n)
        budget = _budget(organism.tokenizer, prompt, settings)
        rows.append(_Row(number, prompt.ids, uniforms, [], begin_with[number], budget))
    lengths = [len(row.prompt) for row in rows]
    longest = max(lengths, default=0)
    what = f"A prompt of {longest} tokens and {n} new ones"
    check_positions(organism, longest + n, what, "lower max_new_tokens, take fewer examples, or shorten the question")
    batches = decoding_batches(lengths, settings.batch_size, organism.model.config)
    stops = stop_tokens(organism)
    with progress.task(name, len(rows), "answers") as advance, torch.inference_mode():
        much = n * len(rows) >= WORTH_PACKING
        share = on_rows is None or kinds is not None
        prefix = SharedPrefix(organism, [row.prompt for row in rows], share=share, pack=much)
        if on_rows is not None and prefix.length:
            on_rows(first_of)
        with prompts_end_at([prefix.length] * len(first_of)):  # all prompts begin with it
            prefix.run(len(first_of))
        for numbers in batches:
            batch = [rows[row] for row in numbers]
            _answer(organism, batch, prompts, prefix, stops, settings, on_rows or (lambda rows: None))
            advance(len(batch))
    return rows


def _beginnings(n: int, kinds: Sequence[int] | None) -> tuple[list[int], list[int]]:
    """Return the first prompt of each kind, and for each prompt which of these is of its kind."""
    if kinds is None:
        return [0], [0] * n
    first_of: dict[int, int] = {}
    for number, kind in enumerate(kinds):
        first_of.setdefault(kind, number)
    places = {kind: place for place, kind in enumerate(first_of)}
    return list(first_of.values()), [places[kind] for kind in kinds]


def _answer(
    organism: Organism,
    batch: list[_Row],
    prompts: Sequence[Prompt],
    prefix: SharedPrefix,
    stops: set[int],
    settings: SamplingSettings,
    on_rows: OnRows,
) -> None:
    """Sample one batch to its end, or take its answers from what was kept of it."""

    def inputs() -> Any:
        asked = []
        for row in batch:
            prompt = prompts[row.number]
            asked.append([row.number, prompt.name, prompt.sample, row.prompt])
        return [organism.placement.told, asdict(settings), prefix.length, asked]

    def make() -> list[list[Any]]:
        _decode(organism, batch, prefix, stops, settings, on_rows)
        return [row.part for row in batch]

    answers = parts.kept_value("answers", inputs, make)
    for row, (tokens, forced) in zip(batch, answers, strict=True):
        row.tokens = tokens
        if row.budget is not None:
            row.budget.forced = forced


def _budget(tokenizer: Any, prompt: Prompt, settings: SamplingSettings) -> ThoughtBudget | None:
    if settings.max_thought_tokens is None:
        return None
    return ThoughtBudget(tokenizer, prompt.opened, settings.max_thought_tokens, settings.max_new_tokens)


def stop_tokens(organism: Organism) -> set[int]:
    """Return the tokens that end an answer."""
    return stop_ids(organism.tokenizer, organism.model.generation_config.eos_token_id)


def response_of(
    tokenizer: Any,
    question: Question,
    sample: int,
    tokens: list[int],
    stops: set[int],
    opened: ThoughtMarks | None = None,
    *,
    forced: bool = False,
) -> Response:
    """Return the row of one sampled answer; a stop token at the end is counted but is not part of the text.

    Args:
        tokenizer: the model's.
        question: what was asked.
        sample: the answer's number among those to the question.
        tokens: what was sampled.
        stops: the tokens that end an answer.
        opened: marks of the thought in which the prompt ended, if it did.
        forced: the thought was closed by force.
    """
    said = sampled_text(tokenizer, tokens, stops, opened)
    return Response(
        question.question_set,
        question.id,
        question.text,
        sample,
        said.answer,
        len(tokens),
        not said.ended,
        question.cluster,
        said.thought,
        said.n_thought_tokens,
        forced,
    )


def sampled_text(tokenizer: Any, tokens: list[int], stops: set[int], opened: ThoughtMarks | None = None) -> SampledText:
    """Return thought and answer of sampled tokens; `opened` are the marks of the thought in which the prompt ended."""
    ended = bool(tokens) and tokens[-1] in stops
    spoken = tokens[:-1] if ended else tokens
    written = str(tokenizer.decode(spoken, skip_special_tokens=False))  # the marks may be special tokens
    spans = find_thought(written, opened is not None)
    if spans is None:
        return SampledText("", tokenizer.decode(spoken, skip_special_tokens=True).strip(), 0, ended)
    thought = clean_thought(written[slice(*spans.thought)])
    if spans.answer is None:
        return SampledText(thought, "", len(spoken), False)
    answer = written[slice(*spans.answer)]
    place = spans.answer[0] + len(answer) - len(answer.lstrip())  # empty lines after the mark belong to it
    n_thought, shared = _tokens_until(tokenizer, spoken, place)
    rest = tokenizer.decode(spoken[n_thought:], skip_special_tokens=True)
    return SampledText(thought, clean_answer(shared + rest), n_thought, ended)


def _tokens_until(tokenizer: Any, tokens: list[int], place: int) -> tuple[int, str]:
    """Return how many tokens the first `place` characters take, and what the last of them says beyond these."""
    low, high = 0, len(tokens)
    while low < high:
        middle = (low + high) // 2
        if len(tokenizer.decode(tokens[:middle], skip_special_tokens=False)) >= place:
            high = middle
        else:
            low = middle + 1
    return low, str(tokenizer.decode(tokens[:low], skip_special_tokens=False))[place:]


def _decode(
    organism: Organism,
    rows: list[_Row],
    prefix: SharedPrefix,
    stops: set[int],
    settings: SamplingSettings,
    on_rows: OnRows,
) -> None:
    """Sample one batch to its end."""
    pad_id, device, n_steps = organism.tokenizer.pad_token_id or 0, organism.device, longest_answer(settings)
    prompts, beginnings = [row.prompt for row in rows], [row.begins_with for row in rows]
    decoding = Decoding(organism.model, prompts, pad_id, n_steps, prefix, beginnings)
    active = list(rows)
    on_rows([row.number for row in active])
    for step in range(n_steps):
        hidden = decoding.step()
        uniforms = torch.tensor([row.uniforms[step] for row in active], device=hidden.device)
        chosen = choose_tokens(finite_logits(organism, hidden), uniforms, settings.temperature, settings.top_p)
        taken = [row.take(token, stops) for row, token in zip(active, chosen.tolist(), strict=True)]
        if settings.max_thought_tokens is not None:
            chosen = chosen.new_tensor(taken)
        going = [number for number, row in enumerate(active) if not row.finished(stops)]
        decoding.append(chosen)
        if not going:
            break
        width = rounded(len(going), ROW_STEP)
        if width < len(active):
            kept = torch.tensor(_fill(going, len(active), width), device=device)
            decoding.keep(kept)
            active = [active[number] for number in kept.tolist()]
            on_rows([row.number for row in active])


def _fill(going: list[int], n: int, width: int) -> list[int]:
    """Return the rows still going and as many finished ones as make up `width` rows, so that shapes repeat."""
    idle = sorted(set(range(n)) - set(going))
    return sorted([*going, *idle[: width - len(going)]])


def choose_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return one token a row [rows] by inverting the cumulative distribution at the row's uniform number.

    Rows are taken some at a time: their float64 sums and sorted copies would need several times the logits' memory.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    size = max(1, LOGITS_AT_ONCE // logits.shape[-1])
    chosen = []
    for some, numbers in zip(torch.split(logits, size), torch.split(uniforms, size), strict=True):
        chosen.append(_choose(some, numbers, temperature, top_p))
    return torch.cat(chosen)


def _choose(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    logits = logits / temperature
    if top_p < 1:
        probabilities, tokens = logits.softmax(dim=-1).sort(dim=-1, descending=True, stable=True)
        outside = probabilities.cumsum(dim=-1) - probabilities >= top_p
        picked = _invert(probabilities.masked_fill(outside, 0), uniforms)
        return tokens.gather(-1, picked[:, None])[:, 0]
    return _invert(torch.exp(logits - logits.amax(dim=-1, keepdim=True)), uniforms)


def _invert(weights: Tensor, uniforms: Tensor, chunk: int = 256) -> Tensor:
    """Invert the CDF of unnormalised weights [rows, n] in two levels: first the chunk, then the token in it."""
    if weights.device.type == "mps":  # Apple GPUs have no float64
        return _invert(weights.cpu(), uniforms.cpu(), chunk).to(weights.device)
    rows, n = weights.shape
    padded = torch.nn.functional.pad(weights, (0, -n % chunk)).view(rows, -1, chunk)
    bounds = padded.sum(dim=-1, dtype=torch.float64).cumsum(dim=-1)
    target = uniforms.double()[:, None] * bounds[:, -1:]
    which = torch.searchsorted(bounds, target, right=True).clamp(max=bounds.shape[1] - 1)
    inside = padded.gather(1, which[:, :, None].expand(-1, 1, chunk))[:, 0].double().cumsum(dim=-1)
    before = torch.where(which > 0, bounds.gather(1, (which - 1).clamp(min=0)), torch.zeros_like(target))
    last = (inside < inside[:, -1:]).sum(dim=-1, keepdim=True)
    token = torch.searchsorted(inside, target - before, right=True).clamp(max=chunk - 1).minimum(last)
    return (which * chunk + token)[:, 0]
