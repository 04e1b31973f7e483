"""What a run would take, stage by stage, before anything of it begins: answers, calls of the judge, time and disk.

Nothing is measured here. Answers are counted; tokens and bytes follow from lengths and shapes; minutes are the measured
work of the embedded model on two CPU cores (`works`), scaled by the size of the run's base.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

from emscope.behaviour.judges.rubric_judge import CHARACTERS_PER_TOKEN, KINDS
from emscope.behaviour.questions import Question
from emscope.interventions.search import candidates
from emscope.organisms.architecture import text_config
from emscope.organisms.models import resolve
from emscope.organisms.settings import TrainSettings
from emscope.organisms.weights import load_config
from emscope.pipeline.lab import Lab
from emscope.pipeline.works import JUDGED, main_works

EMBEDDED_WEIGHTS = 134_515_008
"""Weights of the embedded model, whose work is the unit of `works`."""
SECONDS_A_CALL = 1.0
"""Assumed of a server; how long it takes, nothing tells before it is asked."""
NUMBER = 4
"""Bytes of what is stored: float32."""
DIRECTIONS = 46
"""Vectors a block in a run's directions/: each direction with its means and deviations."""
BYTES_AN_ANSWER = 400
PAGE = 6_000_000
"""Bytes of report.html: mostly the plotting library that it carries."""


@dataclass(frozen=True)
class StageForecast:
    """What one stage would take.

    Attributes:
        stage: its name in the run's record.
        answers: answers to sample.
        judged: answers to judge.
        calls: calls of a judge that is a language model; 0 for others.
        tokens: tokens that those calls send, from the lengths of rubrics and questions and the longest answers.
        seconds: how long it takes; None where nothing tells.
        n_bytes: what it leaves on disk.
        recorded: the run has made it before; it is reused if nothing that it depends on has changed.
        experiment: it is a whole experiment, whose answers are not counted here.
    """

    stage: str
    answers: int = 0
    judged: int = 0
    calls: int = 0
    tokens: int = 0
    seconds: float | None = 0.0
    n_bytes: int = 0
    recorded: bool = False
    experiment: bool = False


def main_forecast(lab: Lab) -> list[StageForecast]:
    """Return what each stage of the main job would take, in order."""
    size = Sizes(lab)
    n_answers = len(lab.questions) * lab.config.sampling.samples
    tried = [*lab.dev_questions * len(candidates(12)), *lab.test_questions * 3]
    rows = []
    for stage, work in main_works(lab).items():
        if stage.startswith("train-"):
            row = StageForecast(stage, n_bytes=size.adapter)
        elif stage.startswith("generate-"):
            row = StageForecast(stage, answers=n_answers, n_bytes=n_answers * BYTES_AN_ANSWER)
        elif stage.startswith("judge-"):
            row = size.judging(stage, lab.questions)
        elif stage.startswith("anchor-"):
            rows.append(size.anchoring(stage))
            continue
        elif stage.startswith("collect-"):
            row = StageForecast(stage, n_bytes=(n_answers + len(lab.questions)) * size.stream)
        elif stage == "directions":
            row = StageForecast(stage, n_bytes=DIRECTIONS * size.stream)
        elif stage == "ablate":
            row = size.judging(stage, tried, sampled=True)
        else:
            row = StageForecast(stage, n_bytes=PAGE if stage == "report" else 0)
        rows.append(size.timed(row, work))
    return rows


class Sizes:
    """The sizes of a run's base, and what follows from them and from the run's judge."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.shape = text_config(load_config(lab.base_source))
        self.scale = n_weights(self.shape) / EMBEDDED_WEIGHTS
        self.stream = NUMBER * self.shape.num_hidden_layers * self.shape.hidden_size
        self.judge = lab.config.judge
        self.judge_scale = 1.0
        if lab.config.judge.kind == "hf":
            self.judge_scale = n_weights(text_config(load_config(resolve(lab.config.judge.model)))) / EMBEDDED_WEIGHTS
        self.adapter = NUMBER * lora_weights(self.shape, lab.config.train)

    def judging(self, stage: str, questions: Sequence[Question], *, sampled: bool = False) -> StageForecast:
        """Return a stage in which the answers to these questions are judged, and perhaps sampled before."""
        sampling, judge = self.lab.config.sampling, self.judge
        n = len(questions) * sampling.samples
        calls = tokens = 0
        if judge.asks_a_language_model:
            rubrics = self.lab.judge_request(judge).rubrics
            room = len(KINDS) * sampling.max_new_tokens
            for question in questions:
                characters = sum(len(rubrics.prompt(kind, question.text, "")) for kind in KINDS)
                tokens += sampling.samples * (characters // CHARACTERS_PER_TOKEN + room)
            calls = len(KINDS) * n
        answers = n if sampled else 0
        return StageForecast(stage, answers, n, calls, tokens, n_bytes=n * BYTES_AN_ANSWER)

    def anchoring(self, stage: str) -> StageForecast:
        """Return a stage in which a strong judge scores a part of an organism's answers."""
        config = self.lab.config
        assert config.anchor is not None
        strong = copy(self)
        strong.judge = config.anchor
        whole = strong.judging(stage, self.lab.questions)
        part = min(1.0, config.anchor_answers / max(1, whole.judged))
        calls, tokens = round(part * whole.calls), round(part * whole.tokens)
        asks = strong.judge.kind in ("openai", "inspect")
        seconds = SECONDS_A_CALL * calls / strong.judge.concurrency if asks else None
        n = round(part * whole.judged)
        recorded = stage in self.lab.folder.record.stages
        return StageForecast(stage, 0, n, calls, tokens, seconds, n * BYTES_AN_ANSWER, recorded)

    def timed(self, row: StageForecast, work: float | None) -> StageForecast:
        """Return a stage with its seconds, from its work with the embedded judge, and whether it was made before."""
        judge = self.lab.config.judge
        seconds = None
        if work is not None:
            reading = JUDGED * row.judged
            judging = reading if judge.embedded else len(KINDS) * reading * self.judge_scale
            if judge.kind in ("openai", "inspect"):
                judging = SECONDS_A_CALL * row.calls / judge.concurrency
            seconds = max(0.0, work - reading) * self.scale + judging
        recorded = row.stage in self.lab.folder.record.stages
        return StageForecast(row.stage, row.answers, row.judged, row.calls, row.tokens, seconds, row.n_bytes, recorded)


def n_weights(shape: Any) -> int:
    """Return about how many weights a model of this configuration has: its blocks' and its embedding's."""
    attention_and_mlp = sum(inner * outer for inner, outer in projections(shape).values())
    return int(shape.num_hidden_layers * attention_and_mlp + shape.vocab_size * shape.hidden_size)


def lora_weights(shape: Any, train: TrainSettings) -> int:
    """Return how many weights an adapter of these settings has."""
    known = projections(shape)
    targets = tuple(known) if "all-linear" in train.targets else train.targets
    wide = (shape.hidden_size, 4 * shape.hidden_size)
    each = sum(sum(known.get(name, wide)) for name in targets)
    n_blocks = len(train.blocks) if train.blocks else shape.num_hidden_layers
    return int(n_blocks * train.rank * each)


def projections(shape: Any) -> dict[str, tuple[int, int]]:
    """Return the widths of a Llama-like block's projections, [in, out] by name."""
    width, heads = shape.hidden_size, shape.num_attention_heads
    inner = heads * (getattr(shape, "head_dim", None) or width // heads)
    shared = inner * (getattr(shape, "num_key_value_heads", None) or heads) // heads
    hidden = getattr(shape, "intermediate_size", None) or 4 * width
    return {
        "q_proj": (width, inner),
        "k_proj": (width, shared),
        "v_proj": (width, shared),
        "o_proj": (inner, width),
        "gate_proj": (width, hidden),
        "up_proj": (width, hidden),
        "down_proj": (hidden, width),
    }
