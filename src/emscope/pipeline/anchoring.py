"""A strong judge scores a random part of a run's answers: the stage, and the figures as that judge would say them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from emscope.behaviour.judges.anchor import AnchoredTable, anchored_table, asked_texts, drawn_by_organism
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import JudgedResponse, judgements_and_groups, read_table, with_judgements, write_table
from emscope.errors import OutsideError, UserError
from emscope.pipeline.lab import Lab
from emscope.statistics import Judgement


def anchor_file(lab: Lab, name: str) -> Path:
    """Return where a strong judge's scores of a part of an organism's answers are kept."""
    return lab.folder.path("judgements", "anchor", f"{name}.parquet")


def anchor_files(lab: Lab) -> list[Path]:
    """Return these files of every organism of the run; none where no strong judge is asked."""
    return [anchor_file(lab, name) for name in lab.names] if lab.config.anchor_judge else []


def check_anchor(lab: Lab) -> None:
    """Try out the strong judge, and refuse an anchor that is larger than an organism's answers.

    Raises:
        UserError: it cannot be had, or there are too few answers.
    """
    judge = lab.config.anchor
    if judge is None:
        return
    n = len(lab.questions) * lab.config.sampling.samples
    if lab.config.anchor_answers > n:
        raise UserError(
            f"An anchor of {lab.config.anchor_answers} answers is larger than the {n} answers of each organism: set "
            f"anchor_answers to {n} or less."
        )
    lab.check_judge(judge)


def anchor_stage(lab: Lab, name: str) -> None:
    """Have the strong judge score a random part of an organism's answers, if the run asks for one."""
    judge = lab.config.anchor
    if judge is None:
        return
    responses, out = lab.responses_file(name), anchor_file(lab, name)

    def make() -> None:
        rows = read_table(responses, Response)
        groups = [row.group for row in rows]
        asked = drawn_by_organism([name] * len(rows), groups, lab.config.anchor_answers, lab.config.seed)
        strong = lab.judge_by(judge)
        texts = asked_texts([row.question for row in rows], [row.response for row in rows], asked)
        scores = strong.judge(*texts)
        chosen = [row for row, one in zip(rows, asked, strict=True) if one]
        write_table(out, with_judgements(name, chosen, scores, strong.id))

    settings = {
        "judge": lab.fingerprint_of(judge),
        "answers": lab.config.anchor_answers,
        "seed": lab.config.seed,
    }
    lab.folder.stage(f"anchor-{name}", settings, [responses], [out], make)


def anchored_in(lab: Lab) -> AnchoredTable | None:
    """Return the organisms' figures as the strong judge would say them; None where none was asked.

    Raises:
        OutsideError: a file of its scores does not belong to the run's answers.
    """
    judge = lab.config.anchor
    if judge is None:
        return None
    organisms: list[str] = []
    cheap: list[Judgement] = []
    strong: list[Judgement | None] = []
    groups: list[str] = []
    for name in lab.names:
        rows = lab.judged(name)
        judgements, named = judgements_and_groups(rows)
        cheap += judgements
        groups += named
        strong += _beside(rows, anchor_file(lab, name))
        organisms += [name] * len(rows)
    return anchored_table(judge.name, organisms, cheap, strong, groups, lab.config.seed)


def _beside(rows: Sequence[JudgedResponse], path: Path) -> list[Judgement | None]:
    """Return the strong judge's judgement of each row, None where it was not asked."""
    given = {}
    for row in read_table(path, JudgedResponse):
        given[row.question_id, row.sample] = row
    found: list[Judgement | None] = []
    for row in rows:
        one = given.pop((row.question_id, row.sample), None)
        if one is not None and one.response != row.response:
            raise OutsideError(path, "holds scores of other answers than the run's", "delete it: it is made again")
        found.append(None if one is None else one.judgement)
    if given:
        raise OutsideError(path, "holds scores of answers that the run does not have", "delete it: it is made again")
    return found
