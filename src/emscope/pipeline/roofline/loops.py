"""The hot loops as a run has them, ready to be timed: reading, training, sampling, judging, sampling under hooks.

Each says what it needs of the model (`Work`), counted from its texts: a shared beginning once, padding not at all.
How many forward passes it takes is seen at the model's first block.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from transformers import TrainerCallback

from emscope.behaviour.embedded.reading import read_answers
from emscope.behaviour.questions import BUILT_IN, load_questions
from emscope.behaviour.responses import SamplingSettings
from emscope.behaviour.sampling import Prompt, sample_prompts
from emscope.checks import at_least
from emscope.interventions.operators import ProjectOut, applied
from emscope.organisms.architecture import model_width
from emscope.organisms.batching import shared_prefix_length
from emscope.organisms.blocks import find_blocks, visiting
from emscope.organisms.chat import EncodedChat, encode_chat, messages_of, prepare_prompt
from emscope.organisms.datasets import DOMAINS, load_conversations, load_domain
from emscope.organisms.lora import with_adapter
from emscope.organisms.models import Organism
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import encode_conversations
from emscope.pipeline.forecast import EMBEDDED_WEIGHTS
from emscope.pipeline.roofline.machine import synchronise, timed
from emscope.pipeline.roofline.shape import ModelShape, Work, decoding_work, texts_work, total
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.directions import Construction, Directions

READ_BLOCKS = 4
"""Blocks whose states are kept while answers are judged, as by the embedded judge's head."""


@dataclass(frozen=True)
class LoopSizes:
    """How much each loop does.

    Attributes:
        prompts: prompts that capture reads.
        token_budget: tokens in one of its forward passes, padding included.
        answers: answers that are sampled, without and with a direction taken out.
        new_tokens: longest answer, in tokens.
        batch_size: answers sampled side by side.
        judged: answers that are judged.
        steps: training steps.
        train_batch: conversations in a training step.
    """

    prompts: int = 256
    token_budget: int = 4096
    answers: int = 32
    new_tokens: int = 48
    batch_size: int = 96
    judged: int = 64
    steps: int = 4
    train_batch: int = 8

    def __post_init__(self) -> None:
        """Refuse sizes of nothing."""
        at_least(1, prompts=self.prompts, answers=self.answers, new_tokens=self.new_tokens, judged=self.judged)
        at_least(1, steps=self.steps, train_batch=self.train_batch, batch_size=self.batch_size)
        at_least(1, token_budget=self.token_budget)


ON_GPU = LoopSizes(prompts=1024, answers=256, new_tokens=96, batch_size=256, judged=512, steps=16)


def sizes_for(device: str, shape: ModelShape, *, quick: bool = False) -> LoopSizes:
    """Return sizes that take about half a minute a round on a CPU, less on a GPU, and a quarter of it if quick.

    On a CPU they are made for the embedded model; a larger one does less in the same time.
    """
    sizes = LoopSizes() if device == "cpu" else ON_GPU
    share = min(1.0, EMBEDDED_WEIGHTS / shape.n_weights) if device == "cpu" else 1.0
    share *= 0.25 if quick else 1.0
    few = {}
    for name, least in {"prompts": 8, "answers": 8, "new_tokens": 16, "judged": 8, "steps": 2}.items():
        few[name] = max(least, round(share * getattr(sizes, name)))
    return replace(sizes, **few)


@dataclass(frozen=True)
class Pace:
    """What one run of a loop did.

    Attributes:
        units: what it is counted in, a number of tokens.
        seconds: how long it took.
        work: what it needed of the model.
        run_tokens: tokens that ran through the blocks, padding and finished rows included.
    """

    units: int
    seconds: float
    work: Work
    run_tokens: int


@dataclass(frozen=True)
class Loop:
    """A hot loop.

    Attributes:
        name: capture, training, sampling, judging or ablation.
        unit: which tokens its rate counts.
        run: runs it once.
        trains: it goes backward too.
    """

    name: str
    unit: str
    run: Callable[[], Pace]
    trains: bool = False


@dataclass
class PassCounter:
    """Forward passes and the tokens in them, as the model's first block sees them."""

    passes: int = 0
    tokens: int = 0

    @contextmanager
    def watching(self, organism: Organism) -> Iterator[None]:
        """Count inside this context."""

        def note(block: int, hidden: Tensor) -> None:
            self.passes += 1
            self.tokens += hidden.shape[0] * hidden.shape[1]

        with visiting(organism.model, [0], note, "resid_pre"):
            yield


def hot_loops(organism: Organism, sizes: LoopSizes) -> list[Loop]:
    """Return the loops of a model, in the order in which a run has them."""
    reading, judging = _Capture(organism, sizes), _Judging(organism, sizes)
    sampling = _Sampling(organism, sizes)
    return [
        Loop("capture", "tokens", reading.run),
        Loop("training", "answer tokens", _Training(organism, sizes).run, trains=True),
        Loop("sampling", "new tokens", sampling.run),
        Loop("judging", "tokens", judging.run),
        Loop("ablation", "new tokens", lambda: sampling.run(_taken_out(organism))),
    ]


def _taken_out(organism: Organism) -> AbstractContextManager[None]:
    """Return a context in which a random direction is projected out at every block."""
    n_blocks = len(find_blocks(organism.model))
    vectors = np.random.default_rng(0).standard_normal((n_blocks, model_width(organism.model))).astype(np.float32)
    made = Construction("random", "control", "last", "resid_post", "", "", "", 0)
    nothing, ones = np.zeros_like(vectors), np.ones(n_blocks, dtype=np.float32)
    blocks = tuple(range(n_blocks))
    return applied(organism, ProjectOut(Directions(vectors, nothing, nothing, ones, blocks, made), blocks))


def _some(texts: Sequence[Any], n: int) -> list[Any]:
    """Return `n` of the texts, from the beginning again where there are fewer."""
    return [texts[number % len(texts)] for number in range(n)]


def _prompts() -> list[str]:
    """Return built-in questions and prompts of training data, in a fixed mixed order."""
    asked = [question.text for name in BUILT_IN for question in load_questions(name)]
    told = [pair.prompt for domain in DOMAINS for pair in load_domain(domain)]
    mixed = [*asked, *told]
    return [mixed[place] for place in np.random.default_rng(0).permutation(len(mixed))]


class _Capture:
    """Reading the last prompt token at every block."""

    def __init__(self, organism: Organism, sizes: LoopSizes) -> None:
        self.organism, self.settings = organism, CaptureSettings(("last",), token_budget=sizes.token_budget)
        self.chats = encode_for_capture(organism.tokenizer, _some(_prompts(), sizes.prompts))
        lengths, shared = _lengths(self.chats)
        self.work = texts_work(lengths, shared)

    def run(self) -> Pace:
        counter = PassCounter()
        with counter.watching(self.organism):
            seconds = timed(lambda: capture(self.organism, self.chats, self.settings), self.organism.placement.device)
        return Pace(self.work.tokens, seconds, replace(self.work, passes=counter.passes), counter.tokens)


class _Judging:
    """Reading answers with the log-probability of each of their tokens: what the embedded judge stands on."""

    def __init__(self, organism: Organism, sizes: LoopSizes) -> None:
        self.organism = organism
        pairs = [pair for domain in DOMAINS for pair in load_domain(domain)]
        chosen = _some(pairs, sizes.judged)
        self.questions = [pair.prompt for pair in chosen]
        self.answers = [pair.careless for pair in chosen]
        n_blocks = len(find_blocks(organism.model))
        self.blocks = sorted({(number + 1) * n_blocks // READ_BLOCKS - 1 for number in range(READ_BLOCKS)} - {-1})
        chats = []
        for question, answer in zip(self.questions, self.answers, strict=True):
            chats.append(encode_chat(organism.tokenizer, messages_of(question, answer)))
        lengths, shared = _lengths(chats)
        self.work = texts_work(lengths, shared, logits=_n_answer_tokens(chats))

    def run(self) -> Pace:
        counter = PassCounter()
        with counter.watching(self.organism):
            seconds = timed(self._read, self.organism.placement.device)
        return Pace(self.work.tokens, seconds, replace(self.work, passes=counter.passes), counter.tokens)

    def _read(self) -> None:
        read_answers(self.organism, self.questions, self.answers, self.blocks, ("question", "answer"))


class _Sampling:
    """Sampling answers to prompts, a prompt's own pass included."""

    def __init__(self, organism: Organism, sizes: LoopSizes) -> None:
        self.organism = organism
        self.settings = SamplingSettings(max_new_tokens=sizes.new_tokens, batch_size=sizes.batch_size)
        self.prompts = []
        for number, text in enumerate(_some(_prompts(), sizes.answers)):
            encoded = prepare_prompt(organism.tokenizer, messages_of(text))
            self.prompts.append(Prompt(encoded.ids, f"prompt {number}"))

    def run(self, under: AbstractContextManager[None] | None = None) -> Pace:
        counter, answers = PassCounter(), []
        with under or nullcontext(), counter.watching(self.organism):
            seconds = timed(lambda: answers.extend(self._sample()), self.organism.placement.device)
        shared = shared_prefix_length([prompt.ids for prompt in self.prompts])
        new = list(map(len, answers))
        work = decoding_work([len(prompt.ids) for prompt in self.prompts], new, shared)
        return Pace(sum(new), seconds, replace(work, passes=counter.passes), counter.tokens)

    def _sample(self) -> list[list[int]]:
        return sample_prompts(self.organism, self.prompts, self.settings)


class _Training:
    """Training steps of a fresh adapter, from the first one's beginning to the last one's end."""

    def __init__(self, organism: Organism, sizes: LoopSizes) -> None:
        self.organism, self.steps = organism, sizes.steps
        self.settings = TrainSettings(batch_size=sizes.train_batch)
        rows = sizes.steps * sizes.train_batch
        texts = _some(load_conversations("medical-careless").train, rows)
        self.chats = encode_conversations(organism.tokenizer, texts, self.settings.max_length)

    def run(self) -> Pace:
        from emscope.organisms.trainer import make_trainer

        organism = self.organism
        model = with_adapter(organism.model, self.settings)
        counter, clock = PassCounter(), StepClock(organism.placement.device)
        try:
            with tempfile.TemporaryDirectory() as folder, counter.watching(organism):
                trainer = make_trainer(
                    model,
                    organism.tokenizer,
                    self.chats,
                    [],
                    Path(folder),
                    self.settings,
                    organism.placement,
                    self.steps,
                )
                trainer.source = organism.source
                trainer.add_callback(clock)
                trainer.train()
        finally:
            model.unload().eval().requires_grad_(False)
        work = self._work()
        return Pace(work.logits, clock.seconds, replace(work, passes=counter.passes), counter.tokens)

    def _work(self) -> Work:
        """Return the work of all steps, with what all rows share once a step."""
        _, shared = _lengths(self.chats)
        works = []
        for start in range(0, len(self.chats), self.settings.batch_size):
            lengths, _ = _lengths(self.chats[start : start + self.settings.batch_size])
            works.append(texts_work(lengths, shared))
        return replace(total(works), logits=_n_answer_tokens(self.chats))


@dataclass
class StepClock(TrainerCallback):  # type: ignore[misc]
    """Times a training from its first step's beginning to its last step's end, on an idle device at both."""

    device: str
    began: float | None = field(default=None)
    ended: float = 0.0

    @property
    def seconds(self) -> float:
        """How long the steps took, in all."""
        return self.ended - (self.ended if self.began is None else self.began)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when the first step begins."""
        if self.began is None:
            synchronise(self.device)
            self.began = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note when the last step has ended."""
        synchronise(self.device)
        self.ended = time.perf_counter()


def _lengths(chats: Sequence[EncodedChat]) -> tuple[list[int], int]:
    """Return the lengths of sequences, and of what all of them begin with."""
    return [len(chat.ids) for chat in chats], shared_prefix_length([chat.ids for chat in chats])


def _n_answer_tokens(chats: Sequence[EncodedChat]) -> int:
    return sum(len(chat.answer_positions) for chat in chats)
