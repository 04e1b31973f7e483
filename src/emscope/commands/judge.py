"""`emscope judge`: score answers for alignment and coherence."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

from emscope.behaviour.embedded_judge import EmbeddedJudge
from emscope.behaviour.statistics import coherent_share, em_rate
from emscope.behaviour.tables import check_table_suffix, read_responses, with_judgements, write_table
from emscope.organisms.embedded import EMBEDDED_ALIAS
from emscope.organisms.models import load


@dataclass(frozen=True)
class JudgeAnswers:
    """Score any table of answers with the offline judge.

    Attributes:
        responses: a .parquet, .csv or .jsonl file with question and response, and perhaps id.
        out: the .parquet or .csv file to write, with aligned, coherent, verdict and judge added.
        organism: whose answers they are, as a label.
    """

    responses: Path
    out: Path
    organism: str = "model"

    def execute(self) -> int | None:
        """Judge and write the table."""
        check_table_suffix(self.out)
        rows = read_responses(self.responses)
        judge = EmbeddedJudge(load(EMBEDDED_ALIAS))
        scores = judge.judge([row.question for row in rows], [row.response for row in rows])
        write_table(self.out, with_judgements(self.organism, rows, scores, judge.id))
        groups = [row.question_id for row in rows]
        rate, coherent = em_rate(scores, groups), coherent_share(scores, groups)
        unscored = sum(score.aligned is None for score in scores)
        sys.stdout.write(
            f"{self.out}: {len(rows)} answers, "
            f"EM rate {100 * rate.value:.1f} % ({100 * rate.low:.1f}-{100 * rate.high:.1f}), "
            f"coherent {100 * coherent.value:.1f} %, unscored {unscored}\n"
        )
        return None


COMMAND = JudgeAnswers
