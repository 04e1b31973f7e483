"""`emscope generate`: sample an organism's answers."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from emscope.behaviour.answer_faults import count_faults
from emscope.behaviour.asking import ask, settings_for
from emscope.behaviour.formats import FORMATS, Format, with_format
from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings
from emscope.behaviour.sharded import sampled_in_shards
from emscope.behaviour.shots import shots_of
from emscope.behaviour.tables import write_table
from emscope.checks import at_least
from emscope.commands.common import (
    GOES_ON,
    NOTHING_KEPT,
    AblationFlags,
    TableFlags,
    kept_parts,
    read_questions,
)
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TABLES, check_out
from emscope.errors import UserError
from emscope.executors.settings import ROWS_PER_SHARD, ExecutorSettings
from emscope.executors.tasks import Held
from emscope.organisms.chat import Message
from emscope.organisms.datasets import load_conversations
from emscope.organisms.loading import LoadSettings
from emscope.organisms.thoughts import count_unfinished

if TYPE_CHECKING:
    from emscope.interventions.operators import Intervention
    from emscope.organisms.models import ModelSource


@dataclass(frozen=True)
class SamplingFlags:
    """How answers are sampled.

    Attributes:
        samples: answers per question; none given means as many as the question file says, else 1.
        temperature: 0 takes the likeliest token; none given means what the question file says, else 1.
        top_p: nucleus mass, 1 keeps the whole distribution.
        max_new_tokens: longest answer, in tokens.
        system: system prompt, before a question's own if it has one; none leaves the model's default.
        seed: makes answers repeatable.
        batch_size: answers sampled side by side (vLLM fills its own batches).
        max_thought_tokens: longest thought, in tokens, after which it is closed by force and max_new_tokens counts for
            the answer alone; none given lets thought and answer share max_new_tokens.
        enable_thinking: let the model think, or not (--no-enable-thinking), where its chat template knows that; none
            given leaves the template's default.
    """

    samples: int | None = None
    temperature: float | None = None
    top_p: float = SamplingSettings.top_p
    max_new_tokens: int = SamplingSettings.max_new_tokens
    system: str | None = None
    seed: int = SamplingSettings.seed
    batch_size: int = SamplingSettings.batch_size
    max_thought_tokens: int | None = None
    enable_thinking: bool | None = None

    def of(self, question: Question) -> SamplingSettings:
        """Return the settings of one question."""
        shared = SamplingSettings(
            top_p=self.top_p,
            max_new_tokens=self.max_new_tokens,
            system=self.system,
            seed=self.seed,
            batch_size=self.batch_size,
            max_thought_tokens=self.max_thought_tokens,
            enable_thinking=self.enable_thinking,
        )
        return settings_for(question, shared, self.samples, self.temperature)


@dataclass(frozen=True)
class Generate:
    """Ask a model questions and store its answers, as Parquet or as the homework's CSV (id, question, response).

    Attributes:
        model: a model, or an adapter folder.
        out: a .parquet or .csv file.
        questions: question sets (everyday-medical, everyday-general, open-ended) or files (.yaml, .jsonl, .csv, .txt).
        format: ask for answers as they come, inside a JSON object or inside a fixed template; several ask for each.
        shots: a data set or file whose conversations stand before every question as earlier turns.
        n_shots: how many of them, drawn by the seed.
        backend: what samples; auto is vLLM where it is installed and sees a GPU, else transformers.
        sampling: how answers are sampled.
        ablation: an ablation to have active.
        load: base, device and dtype.
        table: how the table is written.
        execution: who does the heavy work.
        rows_per_shard: answers of one piece of work, which one worker makes.
    """

    model: str
    out: Path
    questions: tuple[str, ...] = ("everyday-general",)
    format: tuple[Format, ...] = ("plain",)
    shots: str | None = None
    n_shots: int = 0
    backend: Literal["auto", "transformers", "vllm"] = "auto"
    sampling: SamplingFlags = field(default_factory=SamplingFlags)
    ablation: AblationFlags = field(default_factory=AblationFlags)
    load: LoadSettings = field(default_factory=LoadSettings)
    table: TableFlags = field(default_factory=TableFlags)
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)
    rows_per_shard: int = ROWS_PER_SHARD

    def __post_init__(self) -> None:
        """Refuse empty pieces of work."""
        at_least(1, rows_per_shard=self.rows_per_shard)

    @property
    def stopped(self) -> str:
        """What is left after an interruption."""
        if self.backend == "auto":
            return f"{GOES_ON} What vLLM had sampled is not."
        return NOTHING_KEPT if self.backend == "vllm" else GOES_ON

    def execute(self) -> Outcome:
        """Sample and write the table."""
        from emscope.behaviour.vllm_backend import choose_backend
        from emscope.organisms.models import resolve

        check_out(self.out, TABLES, [*self.questions, self.ablation.directions])
        plain, intervention = read_questions(self.questions), self.ablation.intervention()
        shots = self._shots()
        questions: list[Question] = []
        for chosen in dict.fromkeys(self.format or FORMATS[:1]):
            questions += with_format(plain, chosen)
        settings = list(map(self.sampling.of, questions))
        source = resolve(self.model, self.load.base)
        by_workers = self.execution.executor != "local"
        by_transformers = self.sampling.max_thought_tokens is not None or shots or self.load.is_spread or by_workers
        asked = "transformers" if self.backend == "auto" and by_transformers else self.backend
        if asked == "vllm" and by_workers:
            raise UserError("Workers of Ray sample with transformers: leave out --backend vllm, or --executor ray.")
        if asked == "vllm" and shots:
            raise UserError("--shots are not sampled with vLLM: leave out --backend vllm.")
        backend = choose_backend(asked, source, device=self.load.device, hooks=intervention is not None)
        with (
            self.execution.in_force(self.out.absolute().parent, device=self.load.device),
            kept_parts(self.out, [self.model, self.load.base]),
        ):
            if backend == "vllm":
                rows = self._with_vllm(source, questions, settings, intervention)
            else:
                rows = self._with_transformers(questions, settings, shots)
            write_table(self.out, rows, mark_formulas=self.table.mark_formulas)
        return Outcome(self._told(rows), {"answers": len(rows), **asdict(count_faults(rows))}, [self.out])

    def _told(self, rows: Sequence[Response]) -> str:
        """Return how many answers there are, and what is the matter with some."""
        faults = count_faults(rows)
        text = f"{self.out}: {len(rows)} answers, {faults.cut_off} of them cut at {self.sampling.max_new_tokens} tokens"
        for n, what in ((faults.empty, "empty"), (faults.repeated, "repeating")):
            if n:
                text += f", {n} {what}"
        return f"{text}{_said_of_thoughts(rows)}\n"

    def _shots(self) -> list[Message]:
        """Return the turns before every question.

        Raises:
            UserError: only one of --shots and --n-shots is given, or the data do not have so many.
        """
        if (self.shots is None) != (self.n_shots < 1):
            raise UserError("Examples need both: --shots names the data, --n-shots says how many of them.")
        if self.shots is None:
            return []
        return shots_of(load_conversations(self.shots).train, self.n_shots, seed=self.sampling.seed)

    def _with_transformers(
        self, questions: Sequence[Question], settings: Sequence[SamplingSettings], shots: Sequence[Message]
    ) -> list[Response]:
        from emscope.interventions.sharded import ablated_in_shards
        from emscope.organisms.needs import OrganismNeed

        need, held, size = OrganismNeed(self.model, self.load), Held(), self.rows_per_shard
        directions, ablation = self.ablation.directions, self.ablation.alone

        def sample(part: Sequence[Question], wanted: SamplingSettings) -> list[Response]:
            if directions is None:
                return sampled_in_shards(need, part, wanted, shots=shots, rows_per_shard=size, held=held)
            return ablated_in_shards(
                need, ablation, directions, part, wanted, shots=shots, rows_per_shard=size, held=held
            )

        return ask(sample, questions, settings)

    def _with_vllm(
        self,
        source: ModelSource,
        questions: Sequence[Question],
        settings: Sequence[SamplingSettings],
        intervention: Intervention | None,
    ) -> list[Response]:
        from emscope.behaviour.vllm_backend import VllmEngine, longest_request, merges
        from emscope.interventions.vllm_interventions import applied_in_vllm
        from emscope.organisms.device import choose_placement

        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        engine = VllmEngine(
            [source],
            dtype=choose_placement(self.load.device, self.load.dtype).dtype_name,
            max_length=longest_request(source, questions, settings, trust_remote_code=self.load.trust_remote_code),
            trust_remote_code=self.load.trust_remote_code,
            hooks=intervention is not None,
            merge=merges(source),
        )
        with engine, applied_in_vllm(engine, intervention):
            return ask(lambda part, wanted: engine.sample(source, part, wanted), questions, settings)


def _said_of_thoughts(rows: Sequence[Response]) -> str:
    """Return what to say of thoughts, '' where nothing was thought."""
    if not any(row.thought or row.n_thought_tokens for row in rows):
        return ""
    unfinished = count_unfinished([row.thought for row in rows], [row.response for row in rows])
    forced = sum(row.thought_forced for row in rows)
    return f"; {forced} thoughts closed by force, {unfinished} never closed, so that there is no answer"


COMMAND = Generate
