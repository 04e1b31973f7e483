"""`emscope collect`: pooled activations of every block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from emscope.behaviour.tables import question_name, read_responses
from emscope.checks import at_least
from emscope.commands.common import GOES_ON, changed_flags, kept_parts, read_questions
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TENSORS, check_out
from emscope.errors import UserError
from emscope.executors.settings import ROWS_PER_SHARD, ExecutorSettings
from emscope.organisms.loading import LoadSettings
from emscope.organisms.needs import OrganismNeed
from emscope.residual.capture import Activations, CaptureSettings
from emscope.residual.sharded import TextToRead, captured_in_shards, encoded_texts
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
        backend: what reads; vllm needs vLLM and vllm-lens, and compares its activations with transformers' first.
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
    backend: Literal["transformers", "vllm"] = "transformers"
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
        if self.backend == "vllm" and self.execution.executor != "local":
            raise UserError("Workers of Ray read with transformers: leave out --backend vllm, or --executor ray.")
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
            activations = self._in_vllm(texts) if self.backend == "vllm" else self._in_transformers(texts)
            ActivationStore(self.model, tuple(ids), activations).save(self.out)
        facts = {"rows": len(ids), "blocks": len(activations.blocks), "poolings": list(activations.pooled)}
        said = f"{len(ids)} rows, {len(activations.blocks)} blocks, {', '.join(activations.pooled)}"
        return Outcome(f"{self.out}: {said}\n", facts, [self.out])

    def _in_transformers(self, texts: Sequence[TextToRead]) -> Activations:
        return captured_in_shards(
            OrganismNeed(self.model, self.load),
            texts,
            self.capture,
            enable_thinking=self.enable_thinking,
            rows_per_shard=self.rows_per_shard,
        )

    def _in_vllm(self, texts: Sequence[TextToRead]) -> Activations:
        from emscope.behaviour.vllm_backend import VllmEngine, choose_backend, merges
        from emscope.organisms.device import choose_placement
        from emscope.organisms.models import load_tokenizer, resolve
        from emscope.residual.vllm_capture import capture_in_vllm

        source = resolve(self.model, self.load.base)
        choose_backend("vllm", source, device=self.load.device, hooks=True)
        tokenizer = load_tokenizer(source, trust_remote_code=self.load.trust_remote_code)
        chats = encoded_texts(tokenizer, texts, self.enable_thinking)
        with VllmEngine(
            [source],
            dtype=choose_placement(self.load.device, self.load.dtype).dtype_name,
            max_length=max((len(chat.ids) for chat in chats), default=0) + 1,
            trust_remote_code=self.load.trust_remote_code,
            hooks=True,
            merge=merges(source),
        ) as engine:
            return capture_in_vllm(engine, source, chats, self.capture)


COMMAND = Collect
