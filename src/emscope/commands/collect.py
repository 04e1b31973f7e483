"""`emscope collect`: pooled activations of every block."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from emscope.behaviour.tables import question_name, read_responses
from emscope.checks import at_least
from emscope.commands.common import GOES_ON, changed_flags, kept_parts, read_questions
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TENSORS, check_out
from emscope.errors import UserError
from emscope.executors.settings import ROWS_PER_SHARD, ExecutorSettings
from emscope.organisms.loading import LoadSettings
from emscope.organisms.needs import OrganismNeed
from emscope.residual.capture import CaptureSettings
from emscope.residual.sharded import TextToRead, captured_in_shards
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
        execution: who does the heavy work.
        rows_per_shard: rows of one piece of work, which one worker reads.
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
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)
    rows_per_shard: int = ROWS_PER_SHARD

    def __post_init__(self) -> None:
        """Refuse empty pieces of work."""
        at_least(1, rows_per_shard=self.rows_per_shard)

    def execute(self) -> Outcome:
        """Read and write the activations."""
        if self.responses is not None and changed_flags(self, ["questions"]):
            raise UserError("--responses holds the questions to read: leave out --questions.")
        check_out(self.out, TENSORS, [self.model, self.responses, *self.questions])
        if self.responses is not None:
            rows = read_responses(self.responses)
            ids = list(map(question_name, rows))
            texts = [TextToRead(row.question, row.response, row.thought, self.system) for row in rows]
        else:
            questions = read_questions(self.questions)
            ids = [question.id for question in questions]
            texts = [TextToRead(item.text, system=item.system_after(self.system)) for item in questions]
        with (
            self.execution.in_force(self.out.absolute().parent, device=self.load.device),
            kept_parts(self.out, [self.model, self.load.base]),
        ):
            activations = captured_in_shards(
                OrganismNeed(self.model, self.load),
                texts,
                self.capture,
                enable_thinking=self.enable_thinking,
                rows_per_shard=self.rows_per_shard,
            )
            ActivationStore(self.model, tuple(ids), activations).save(self.out)
        facts = {"rows": len(ids), "blocks": len(activations.blocks), "poolings": list(activations.pooled)}
        said = f"{len(ids)} rows, {len(activations.blocks)} blocks, {', '.join(activations.pooled)}"
        return Outcome(f"{self.out}: {said}\n", facts, [self.out])


COMMAND = Collect
