"""`emscope generate`: sample an organism's answers."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from emscope.behaviour.sampling import SamplingSettings, sample_responses
from emscope.behaviour.tables import check_table_suffix, write_table
from emscope.commands.common import AblationFlags, ModelFlags, read_questions


@dataclass(frozen=True)
class Generate:
    """Ask a model questions and store its answers, as Parquet or as the homework's CSV (id, question, response).

    Attributes:
        model: a model, or an adapter folder.
        out: a .parquet or .csv file.
        questions: question sets (everyday-medical, everyday-general, open-ended) or files (.jsonl, .csv, .txt).
        sampling: how answers are sampled.
        ablation: an ablation to have active.
        load: base, device and dtype.
    """

    model: str
    out: Path
    questions: tuple[str, ...] = ("everyday-general",)
    sampling: SamplingSettings = field(default_factory=SamplingSettings)
    ablation: AblationFlags = field(default_factory=AblationFlags)
    load: ModelFlags = field(default_factory=ModelFlags)

    def execute(self) -> int | None:
        """Sample and write the table."""
        from emscope.interventions.operators import applied

        check_table_suffix(self.out)
        questions, intervention = read_questions(self.questions), self.ablation.intervention()
        organism = self.load.load(self.model)
        with applied(organism, intervention):
            rows = sample_responses(organism, questions, self.sampling)
        write_table(self.out, rows)
        cut = sum(row.truncated for row in rows)
        sys.stdout.write(
            f"{self.out}: {len(rows)} answers, {cut} of them cut at {self.sampling.max_new_tokens} tokens\n"
        )
        return None


COMMAND = Generate
