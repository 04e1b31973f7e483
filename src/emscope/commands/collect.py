"""`emscope collect`: pooled activations of every block."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from emscope.behaviour.tables import question_name, read_responses
from emscope.commands.common import GOES_ON, changed_flags, kept_parts, read_questions
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TENSORS, check_out
from emscope.errors import UserError
from emscope.organisms.loading import LoadSettings
from emscope.residual.capture import CaptureSettings, capture, encode_for_capture
from emscope.residual.store import ActivationStore


@dataclass(frozen=True)
class Collect:
    """Read a model's residual stream over prompts, or over prompts with answers, and store pooled vectors.

    Attributes:
        model: a model, or an adapter folder.
        out: the .safetensors file to write.
        questions: question sets or files, read as prompts alone.
        responses: a table of questions and answers to read instead (.parquet, .csv, .jsonl, .json, …).
        system: system prompt.
        enable_thinking: let the model think, or not (--no-enable-thinking), where its chat template knows that; none
            given leaves the template's default.
        capture: what to read.
        load: base, device and dtype.
    """

    stopped: ClassVar[str] = GOES_ON

    model: str
    out: Path
    questions: tuple[str, ...] = ("everyday-general",)
    responses: Path | None = None
    system: str | None = None
    enable_thinking: bool | None = None
    capture: CaptureSettings = field(default_factory=CaptureSettings)
    load: LoadSettings = field(default_factory=LoadSettings)

    def execute(self) -> Outcome:
        """Read and write the activations."""
        if self.responses is not None and changed_flags(self, ["questions"]):
            raise UserError("--responses holds the questions to read: leave out --questions.")
        check_out(self.out, TENSORS, [self.model, self.responses, *self.questions])
        systems: str | list[str | None] | None = self.system
        answers: list[str] | None = None
        thoughts: list[str] | None = None
        if self.responses is not None:
            rows = read_responses(self.responses)
            ids, prompts = list(map(question_name, rows)), [row.question for row in rows]
            answers, thoughts = [row.response for row in rows], [row.thought for row in rows]
        else:
            questions = read_questions(self.questions)
            ids, prompts = [question.id for question in questions], [question.text for question in questions]
            systems = [question.system_after(self.system) for question in questions]
        organism = self.load.load(self.model)
        chats = encode_for_capture(
            organism.tokenizer, prompts, answers, systems, thoughts=thoughts, enable_thinking=self.enable_thinking
        )
        with kept_parts(self.out, [self.model, self.load.base]):
            activations = capture(organism, chats, self.capture)
            ActivationStore(self.model, tuple(ids), activations).save(self.out)
        facts = {"rows": len(ids), "blocks": len(activations.blocks), "poolings": list(activations.pooled)}
        said = f"{len(ids)} rows, {len(activations.blocks)} blocks, {', '.join(activations.pooled)}"
        return Outcome(f"{self.out}: {said}\n", facts, [self.out])


COMMAND = Collect
