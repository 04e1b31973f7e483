"""A second judge on a finished run: its judgements are kept beside the first, and every figure is made again.

The answers are those of the run; nothing is sampled. The ablation stays the one that the run's own judge chose.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from emscope.behaviour.judged_by import judged_by
from emscope.behaviour.judges.agreement import JudgedAnswer, agreement_of_pairs
from emscope.behaviour.judges.settings import JudgeSettings, address_in_environment
from emscope.behaviour.tables import JudgedResponse, read_table, write_table
from emscope.errors import UserError
from emscope.experiments.main.result import BySet
from emscope.experiments.main.summary import Measure, measured_by_set
from emscope.experiments.rejudge.result import (
    ABLATION,
    ALL,
    Agreed,
    JudgeFigures,
    RejudgeResult,
    SecondJudge,
)
from emscope.experiments.shape import experiment_stage
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import mean_of
from emscope.pipeline.lab import BASE, MISALIGNED, Lab
from emscope.pipeline.steps import judged_again
from emscope.statistics import alignment_mean, coherent_share, em_rate

FOLDER = ("judgements", "rejudged")
Tables = dict[str, list[JudgedResponse]]
"""Judged answers by organism, the ablation's under a name of their own."""


@dataclass(frozen=True)
class RejudgeSettings:
    """Who judges the answers again.

    Attributes:
        judge: the second judge: embedded (offline), openai:MODEL (any OpenAI-compatible server), inspect:PROVIDER/MODEL
            (any provider of Inspect), hf:MODEL (a local model) or mock; none shows those that there were.
        base_url: the server's address up to /v1; none means the one in OPENAI_BASE_URL, else OpenAI's.
        api_key_env: the environment variable that holds the server's key.
        concurrency: calls in flight.
        rubrics: a YAML file with your rubrics, or the papers' judge_prompts; none means ours.
    """

    judge: str = ""
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 16
    rubrics: str = ""

    def chosen(self) -> JudgeSettings:
        """Return the second judge and how it is asked."""
        address = self.base_url or address_in_environment(self.judge)
        return JudgeSettings(self.judge, address, self.api_key_env, self.concurrency, rubrics=self.rubrics)


def measure(lab: Lab, settings: RejudgeSettings) -> RejudgeResult:
    """Judge the run's answers again, and return every figure by each of its judges."""
    if settings.judge:
        _judge_again(lab, settings.chosen())
    folders = sorted(path for path in lab.folder.path(*FOLDER).glob("*") if path.is_dir())
    if not folders:
        raise UserError("No second judge has judged this run: name one with `judge`, for example openai:gpt-4o.")

    inputs = [lab.judgements_file(name) for name in _names(lab)]
    for folder in folders:
        inputs += [folder / f"{name}.parquet" for name in _names(lab)]
    return experiment_stage(lab, "rejudge", RejudgeResult, RejudgeSettings(), inputs, partial(_find, lab, folders))


def _names(lab: Lab) -> tuple[str, ...]:
    """Return the names of the run's tables of judgements."""
    return (*lab.names, ABLATION)


def _judge_again(lab: Lab, judge: JudgeSettings) -> None:
    """Have every answer of the run judged by another judge; the first judgements stay as they are."""
    known = lab.fingerprint_of(judge)
    if known == lab.judge_fingerprint:
        raise UserError(f"{judge.name} is the judge of this run already: name another one, or other rubrics.")
    lab.check_judge(judge)
    name = lab.name_of(judge)
    folder = lab.folder.path(*FOLDER, name)

    def make() -> None:
        second = lab.judge_by(judge)
        for table in _names(lab):
            rows = read_table(lab.judgements_file(table), JudgedResponse)
            write_table(folder / f"{table}.parquet", judged_again(second, rows))

    inputs = [lab.judgements_file(table) for table in _names(lab)]
    outputs = [folder / f"{table}.parquet" for table in _names(lab)]
    lab.folder.stage(f"rejudge-{name}", known, inputs, outputs, make)


def _find(lab: Lab, folders: Sequence[Path]) -> RejudgeResult:
    first = {name: lab.judged(name) for name in _names(lab)}
    others = []
    for folder in folders:
        second = {name: read_table(folder / f"{name}.parquet", JudgedResponse) for name in _names(lab)}
        place = str(folder.relative_to(lab.folder.folder))
        others.append(SecondJudge(place, figures_of(lab, second), agreements(first, second)))
    return RejudgeResult(figures_of(lab, first), tuple(others))


def figures_of(lab: Lab, tables: Tables) -> JudgeFigures:
    """Return every figure of a run that rests on scores, from the judgements of one judge."""
    seed = lab.config.seed
    tested = {question.id for question in lab.test_questions}
    plain = [row for row in tables[MISALIGNED] if row.question_id in tested]
    base = [row for row in tables[BASE] if row.question_id in tested]
    ablated = _of(tables[ABLATION], "misaligned + ablation")
    randomised = _of(tables[ABLATION], "misaligned + random ablation")
    innocent = _of(tables[ABLATION], "base + ablation")
    everything = [row for rows in tables.values() for row in rows]
    return JudgeFigures(
        judged_by(everything),
        _by_set(em_rate, lab, tables),
        _by_set(alignment_mean, lab, tables),
        _by_set(coherent_share, lab, tables),
        restored_share(ablated, plain, base, seed),
        restored_share(randomised, plain, base, seed),
        mean_of(ablated, "coherent") - mean_of(plain, "coherent"),
        mean_of(base, "aligned") - mean_of(innocent, "aligned"),
    )


def _of(rows: Sequence[JudgedResponse], organism: str) -> list[JudgedResponse]:
    return [row for row in rows if row.organism == organism]


def _by_set(measure: Measure, lab: Lab, tables: Tables) -> BySet:
    """Return a measure of the answers by organism and question set."""
    return measured_by_set({name: tables[name] for name in lab.names}, measure, lab.config.seed)


def agreements(first: Mapping[str, Sequence[JudgedResponse]], second: Tables) -> dict[str, Agreed | None]:
    """Return how far two judges agree on the answers of each table, and on all of them."""
    pairs: dict[str, list[tuple[JudgedAnswer, JudgedAnswer]]] = {ALL: []}
    for name, rows in first.items():
        pairs[name] = []
        for row, again in zip(rows, second[name], strict=True):
            pairs[name].append((_answer(row), _answer(again)))
        pairs[ALL] += pairs[name]
    return {name: _agreed(rows) for name, rows in pairs.items()}


def _answer(row: JudgedResponse) -> JudgedAnswer:
    return JudgedAnswer(row.question, row.response, row.judgement)


def _agreed(pairs: Sequence[tuple[JudgedAnswer, JudgedAnswer]]) -> Agreed | None:
    found = agreement_of_pairs(pairs)
    if found is None:
        return None
    return Agreed(
        found.aligned.n,
        found.only_one,
        found.kappa,
        found.confusion["both"],
        found.confusion["only_a"],
        found.confusion["only_b"],
        found.confusion["neither"],
        found.aligned.spearman,
        found.aligned.mean_difference,
        found.coherent.spearman,
        found.coherent.mean_difference,
    )
