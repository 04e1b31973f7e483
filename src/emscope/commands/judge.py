"""`emscope judge`: score answers for alignment and coherence, or compare two judges on the same answers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from emscope import terminal
from emscope.behaviour.answer_faults import count_faults
from emscope.behaviour.appeals import count_appeals
from emscope.behaviour.judges.agreement import read_scores
from emscope.behaviour.judges.anchor import (
    ANSWERS,
    AnchoredTable,
    anchored_table,
    asked_texts,
    drawn_by_organism,
    is_complete,
    plan_of,
    spread_out,
)
from emscope.behaviour.judges.batch import BatchResult, judge_by_batch, keys_under_way
from emscope.behaviour.judges.kinds import choose_judge, judge_class
from emscope.behaviour.judges.openai_judge import OpenAIJudge
from emscope.behaviour.judges.rubric_judge import NOT_ASKED, RubricJudge
from emscope.behaviour.judges.scoring import VERDICTS
from emscope.behaviour.judges.server import NO_KEY, ServerSettings
from emscope.behaviour.judges.settings import EMBEDDED, OFFLINE, JudgeSettings, address_in_environment
from emscope.behaviour.judging import Judge, Judgement
from emscope.behaviour.responses import Response
from emscope.behaviour.sharded import judged_in_shards
from emscope.behaviour.tables import organisms_in, read_responses, with_anchor, with_judgements, write_table
from emscope.checks import at_least
from emscope.commands.anchoring import NOT_COMPLETE, anchor_cost, anchored_lines
from emscope.commands.common import GOES_ON, NOTHING_KEPT, TableFlags, changed_flags, kept_parts
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import TABLES, check_out
from emscope.errors import EXIT_DONE, EXIT_USER, UserError
from emscope.executors.settings import ROWS_PER_SHARD, ExecutorSettings
from emscope.files import file_sha256, write_json
from emscope.organisms.needs import OrganismNeed
from emscope.organisms.thoughts import with_thought
from emscope.statistics import AnswerCounts, Estimate, coherent_share, count_answers, em_rate

if TYPE_CHECKING:
    from emscope.behaviour.judges.agreement import Agreement


@dataclass(frozen=True)
class ServerFlags:
    """How an OpenAI-compatible server is asked.

    Attributes:
        base_url: the server's address up to /v1, for example http://127.0.0.1:8000/v1; none means the one in
            OPENAI_BASE_URL, else OpenAI's.
        api_key_env: the environment variable that holds the key.
        concurrency: calls in flight.
        timeout: seconds before a call counts as lost.
        attempts: tries of one call before its answer is left unscored.
        logprobs: read scores from the first token's probabilities where the server gives them; otherwise from replies.
    """

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout: float = 60.0
    attempts: int = 8
    logprobs: bool = True

    def __post_init__(self) -> None:
        """Refuse an address that is none, and numbers that make no sense, whichever judge is chosen."""
        ServerSettings(self.base_url, NO_KEY, self.concurrency, self.timeout, self.attempts)


TABLE = "table"
"""The judge whose scores the table holds already."""


@dataclass(frozen=True)
class JudgeAnswers:
    """Score any table of answers; what was scored once is never asked or paid for again.

    Attributes:
        responses: a table (.parquet, .csv, .jsonl, .json, …) with question and response, and perhaps id.
        out: the .parquet or .csv file to write, with aligned, coherent, verdict, mode and judge added; with --compare
            a .json file.
        judge: embedded (offline), embedded:HEAD (the same with a head of your own), openai:MODEL (any OpenAI-compatible
            server), inspect:PROVIDER/MODEL (any provider of Inspect), hf:MODEL (a local model) or mock; with --anchor
            also table, whose scores are in the table already.
        anchor: a strong judge, say openai:MODEL, that scores a random part of the answers, spread over the questions;
            EM rate, mean alignment and differences of organisms are then given as it would say them.
        anchor_answers: answers of each organism in that part.
        anchor_seed: draws the part; the same seed draws the same one.
        rubrics: a YAML file with your rubrics, or the papers' judge_prompts; none means ours.
        dry_run: only say how many calls and tokens it would take.
        batch: have an openai judge's answers judged by its batch API, mostly at half the price and within a day: the
            same command submits, says how it stands, and writes the table once everything is there.
        max_calls: stop asking after this many calls; the same command goes on from there.
        store: where scores are kept across runs; by default in emscope's cache.
        compare: two judged tables of the same answers: print how far they agree.
        calibrate: a table that a stronger judge has scored: fit a head to it, for embedded:HEAD, print how far it
            agrees on organisms and questions left out, and write it to `out` (.safetensors) if it beats the shipped.
        plot: with --compare, also write a page (.html) with scatter plots.
        organism: whose answers they are, as a label.
        judge_thoughts: judge the thoughts together with the answers; else answers alone are judged.
        execution: who does the heavy work, where the embedded judge judges.
        rows_per_shard: answers of one piece of work, which one worker judges.
    """

    responses: Path | None = None
    out: Path | None = None
    judge: str = "embedded"
    anchor: str | None = None
    anchor_answers: int = ANSWERS
    anchor_seed: int = 0
    rubrics: Path | None = None
    dry_run: bool = False
    batch: bool = False
    max_calls: int | None = None
    store: Path | None = None
    compare: tuple[Path, Path] | None = None
    calibrate: Path | None = None
    plot: Path | None = None
    organism: str = "model"
    judge_thoughts: bool = False
    server: ServerFlags = field(default_factory=ServerFlags)
    table: TableFlags = field(default_factory=TableFlags)
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)
    rows_per_shard: int = ROWS_PER_SHARD

    def __post_init__(self) -> None:
        """Refuse a limit below nothing, and workers for a judge that reads nothing here."""
        at_least(0, max_calls=self.max_calls or 0)
        at_least(1, rows_per_shard=self.rows_per_shard, anchor_answers=self.anchor_answers)
        if self.execution.executor != "local" and not self._embedded:
            raise UserError(
                f"Workers judge with the embedded judge, and {self.judge} is asked from here: leave out --executor."
            )

    @property
    def stopped(self) -> str:
        """What is left after an interruption."""
        if self.compare is not None or self.dry_run or (self.judge == "mock" and self.anchor is None):
            return NOTHING_KEPT
        if self._embedded and self.anchor is None:
            return GOES_ON
        return "Scores of servers and local models are kept: the same command asks only for the rest."

    def execute(self) -> Outcome:
        """Judge and write the table, or compare."""
        if self.compare is not None:
            return self._compare(*self.compare)
        if self.calibrate is not None:
            return self._calibrated(self.calibrate)
        if self.plot is not None:
            raise UserError("--plot shows two judged tables: name them with --compare A B.")
        self._check_anchor()
        if self.batch and not (self.anchor or self.judge).startswith("openai:"):
            raise UserError("--batch has a server judge later: name it with --judge openai:MODEL.")
        if self.responses is None or (self.out is None and not self.dry_run):
            raise UserError(
                "Name the answers with --responses and the table to write with --out (or use --compare A B)."
            )
        if self.out is not None:
            check_out(self.out, TABLES, [self.responses, self.rubrics, self.store])
        rows = read_responses(self.responses)
        questions, answers = [row.question for row in rows], [self._judged(row) for row in rows]
        if self.anchor is not None:
            return self._anchored(self.anchor, rows, questions, answers)
        if self.dry_run:
            return _cost(self._judge(), questions, answers, self.batch)
        assert self.out is not None
        with self._kept():
            judge_id, scores = self._judged_by(questions, answers)
            if isinstance(scores, BatchResult):
                return _under_way(scores, self.judge)
            judged = with_judgements(self.organism, rows, scores, judge_id + "+thoughts" * self.judge_thoughts)
            write_table(self.out, judged, mark_formulas=self.table.mark_formulas)
        return Outcome(_figures(self.out, rows, scores), _facts(rows, scores), [self.out], _ending(self.out, scores))

    def _check_anchor(self) -> None:
        """Refuse an anchor that could say nothing, and what belongs to none."""
        if self.anchor is None:
            ignored = changed_flags(self, ("anchor_answers", "anchor_seed"))
            if ignored:
                raise UserError(f"{ignored} belongs to a strong judge: name it with --anchor, say openai:MODEL.")
            if self.judge == TABLE:
                raise UserError("The table's own scores are read beside a strong judge: name it with --anchor.")
        elif self.anchor == self.judge:
            raise UserError(f"{self.anchor} cannot be its own anchor: name a stronger judge with --anchor.")
        else:
            judge_class(self.anchor)

    def _anchored(self, name: str, rows: list[Response], questions: list[str], answers: list[str]) -> Outcome:
        """Have a strong judge score a part and the other one everything, and say what the strong one would say."""
        assert self.responses is not None
        organisms, groups = organisms_in(self.responses, self.organism), [row.group for row in rows]
        asked = drawn_by_organism(organisms, groups, self.anchor_answers, self.anchor_seed)
        strong_judge = self._judge(name)
        plan = plan_of(strong_judge, questions, answers, asked)
        if self.dry_run:
            return self._anchor_cost(anchor_cost(plan, len(rows), name), asdict(plan), questions, answers)
        assert self.out is not None
        scored = self._scores(strong_judge, *asked_texts(questions, answers, asked))
        if isinstance(scored, BatchResult):
            return _under_way(scored, name)
        with self._kept():
            judge_id, scores = self._judged_by(questions, answers)
            if isinstance(scores, BatchResult):
                return _under_way(scores, self.judge)
            strong = spread_out(scored, asked)
            label = "+thoughts" * self.judge_thoughts
            judged = with_judgements(self.organism, rows, scores, judge_id + label)
            twice = with_anchor(judged, organisms, strong, strong_judge.id + label)
            write_table(self.out, twice, mark_formulas=self.table.mark_formulas)
        found = None
        if is_complete(strong):
            found = anchored_table(strong_judge.id, organisms, scores, strong, groups, self.anchor_seed)
            found = replace(found, calls_saved=plan.calls_saved, tokens_saved=plan.tokens_saved)
        lines = NOT_COMPLETE if found is None else "\n".join(anchored_lines(found, name, self.judge)) + "\n"
        facts = replace(_facts(rows, scores), anchor=found)
        ending = max(_ending(self.out, scores), _ending(self.out, scored))
        return Outcome(_figures(self.out, rows, scores) + lines, facts, [self.out], ending)

    def _anchor_cost(self, text: str, facts: dict[str, int], questions: list[str], answers: list[str]) -> Outcome:
        """Say what an anchor would take, and what the other judge would."""
        if self._embedded or self.judge == TABLE:
            return Outcome(text, {"anchor": facts, "answers": len(answers), "calls": 0, "tokens": 0})
        rest = _cost(self._judge(), questions, answers, self.batch)
        return Outcome(text + rest.text, {"anchor": facts, **rest.result})

    def _judged(self, row: Response) -> str:
        """Return what is judged of a row."""
        return with_thought(row.thought, row.response) if self.judge_thoughts else row.response

    @property
    def _embedded(self) -> bool:
        """Whether a head on the embedded model judges."""
        return self.judge.partition(":")[0] == EMBEDDED

    @property
    def _head(self) -> Path:
        """The head that judges, named so that a worker finds it."""
        from emscope.behaviour.embedded.judge import head_file

        return head_file(JudgeSettings(self.judge).head).absolute()

    @contextmanager
    def _kept(self) -> Iterator[None]:
        """Keep what is finished, and let who is asked for do the work: where the embedded judge judges."""
        if not self._embedded:
            yield
            return
        from emscope.organisms.embedded import EMBEDDED_ALIAS

        assert self.out is not None
        folder, head = self.out.absolute().parent, file_sha256(self._head)
        with self.execution.in_force(folder), kept_parts(self.out, [EMBEDDED_ALIAS], head):
            yield

    def _judged_by(self, questions: list[str], answers: list[str]) -> tuple[str, list[Judgement] | BatchResult]:
        """Return the judge's id, and the judgements or how a batch stands that is under way."""
        if self._embedded:
            from emscope.organisms.embedded import EMBEDDED_ALIAS

            need, size = OrganismNeed(EMBEDDED_ALIAS), self.rows_per_shard
            return judged_in_shards(need, self._head, questions, answers, rows_per_shard=size)
        if self.judge == TABLE:
            assert self.responses is not None
            return read_scores(self.responses)
        judge = self._judge()
        return judge.id, self._scores(judge, questions, answers)

    def _scores(self, judge: Judge, questions: list[str], answers: list[str]) -> list[Judgement] | BatchResult:
        """Return the judgements, or how a batch stands that is under way."""
        if not isinstance(judge, OpenAIJudge):
            return judge.judge(questions, answers)
        if self.batch:
            result = judge_by_batch(judge, questions, answers)
            return result if result.judgements is None else result.judgements
        paid = keys_under_way(judge)
        if paid and any(call.key in paid for call in judge.pending(questions, answers)[1]):
            raise UserError("Some of these answers are being judged in a batch: collect it with --batch, or pay twice.")
        return judge.judge(questions, answers)

    def _judge(self, name: str | None = None) -> Judge:
        """Return the judge, or the one of this name; to say what it would take, a server needs no key."""
        asked, name = self.server, name or self.judge
        beside = self.anchor is not None and name.partition(":")[0] in OFFLINE  # the address is the other judge's
        settings = JudgeSettings(
            name,
            ("" if beside else asked.base_url) or address_in_environment(name),
            asked.api_key_env,
            asked.concurrency,
            asked.timeout,
            asked.attempts,
            asked.logprobs,
            "" if self.rubrics is None else str(self.rubrics),
        )
        server = ServerSettings(settings.base_url or None) if self.dry_run else None
        return choose_judge(settings, store=self.store, server=server, max_calls=self.max_calls)

    def _calibrated(self, scored: Path) -> Outcome:
        from emscope.commands.calibrating import calibrate_to_table

        others = [field.name for field in fields(self) if field.name not in ("calibrate", "out", "table")]
        ignored = changed_flags(self, others)
        if ignored:
            raise UserError(f"--calibrate fits a head to a scored table, so {ignored} would be ignored: leave it out.")
        return calibrate_to_table(scored, self.out)

    def _compare(self, first: Path, second: Path) -> Outcome:
        from emscope.behaviour.judges.agreement import agreement, matched, read_judged

        ignored = changed_flags(
            self,
            (
                "responses",
                "judge",
                "anchor",
                "anchor_answers",
                "anchor_seed",
                "rubrics",
                "dry_run",
                "batch",
                "max_calls",
                "store",
                "organism",
                "judge_thoughts",
            ),
        )
        if ignored or self.server != ServerFlags():
            ignored = ignored or "what is said of a server"
            raise UserError(f"--compare reads tables that are judged, so {ignored} would be ignored: leave it out.")
        if self.out is not None:
            check_out(self.out, [".json"], [first, second])
        if self.plot is not None:
            check_out(self.plot, [".html"], [first, second])
        a, b = read_judged(first), read_judged(second)
        found = agreement(a, b)
        if self.plot is not None:
            from emscope.report.agreement import write_agreement_page

            write_agreement_page(self.plot, matched(a, b), found, (first.stem, second.stem))
        told = {"a": str(first), "b": str(second), **asdict(found)}
        if self.out is not None:
            write_json(self.out, told)
        files = [file for file in (self.plot, self.out) if file is not None]
        return Outcome(_agreement(found, first, second), told, files)


def _agreement(found: Agreement, first: Path, second: Path) -> str:
    """Return how far two judges agree, as a table."""
    a, b = found.em_rate
    lines = [
        f"A  {first}",
        f"B  {second}",
        "",
        f"{'':<10}{'answers':>8}{'rank correlation':>19}{'mean |A − B|':>15}{'mean A − B':>13}",
    ]
    for name, score in (("aligned", found.aligned), ("coherent", found.coherent)):
        lines.append(
            f"{name:<10}{score.n:>8}{_number(score.spearman, '.2f'):>19}"
            f"{_number(score.mean_absolute_difference, '.1f'):>15}{_number(score.mean_difference, '+.1f'):>13}"
        )
    lines += [
        "",
        f"EM rate   A {_share(a)}, B {_share(b)}; κ {_number(found.kappa, '.2f')}",
        f"EM by     {', '.join(f'{n} {who}' for who, n in found.confusion.items())}",
    ]
    if found.only_one or found.unmatched:
        lines.append(
            f"left out  {found.only_one} answers that one judge scored, {found.unmatched} that one table holds"
        )
    return "\n".join(lines) + "\n"


def _number(value: float, form: str) -> str:
    return "n/a" if math.isnan(value) else format(value, form)


def _under_way(result: BatchResult, name: str) -> Outcome:
    """Say how the batches stand."""
    submitted = f"{result.submitted} calls submitted to {name}. " if result.submitted else ""
    text = (
        f"{submitted}{result.waiting} calls are under way, {result.answered} of them answered: run the same command "
        f"again to collect them ({result.folder} remembers them).\n"
    )
    facts = {"submitted": result.submitted, "waiting": result.waiting, "answered": result.answered}
    return Outcome(text, facts, [result.folder])


def _cost(judge: Judge, questions: list[str], answers: list[str], batch: bool = False) -> Outcome:
    """Say what judging would take."""
    if not isinstance(judge, RubricJudge):
        text = f"{len(answers)} answers, judged on this machine: no calls, no cost.\n"
        return Outcome(text, {"answers": len(answers), "calls": 0, "tokens": 0})
    plan = judge.plan(questions, answers)
    text = (
        f"{len(answers)} answers: {plan.calls} calls to {judge.name}, about {plan.tokens:,} tokens to send and as many "
        f"tokens back as calls; {plan.known} scores are known already. A model that reasons first sends back "
        f"hundreds a call.{' In a batch most servers take half the price.' if batch else ''}\n"
    )
    facts = {"answers": len(answers), "calls": plan.calls, "tokens": plan.tokens, "known_scores": plan.known}
    return Outcome(text, facts)


def _figures(out: Path, rows: list[Response], scores: list[Judgement]) -> str:
    """Return the rate and what could not be scored, with reasons, as text."""
    groups = [row.group for row in rows]
    rate, coherent, counts = em_rate(scores, groups), coherent_share(scores, groups), count_answers(scores)
    bounded = not math.isnan(rate.low)
    interval = f" ({100 * rate.low:.1f}-{100 * rate.high:.1f}, questions resampled)" if bounded else ""
    lines = [
        f"{out}: {len(rows)} answers to {len(set(groups))} questions",
        f"  EM rate   {_share(rate.value)}{interval}",
        f"  coherent  {_share(coherent.value)}",
        f"  scored {counts.scored}, refusals {counts.refusals}, code {counts.code}, unscored {counts.unscored}",
    ]
    for warning in (
        str(count_faults(rows)),
        str(count_appeals([with_thought(row.thought, row.response) for row in rows])),
    ):
        if warning:
            lines.append(f"  {warning}")
    modes: Counter[str] = Counter()
    for score in scores:
        modes.update(filter(None, score.mode.split("+")))
    if len(modes) > 1:
        counted = ", ".join(f"{mode} {n}" for mode, n in modes.most_common())
        lines.append(f"  read in {len(modes)} ways ({counted} answers): their scores are not of one scale")
    reasons: Counter[str] = Counter()
    for score in scores:
        if score.verdict not in ("scored", "refusal", "code"):
            reasons[score.verdict] += 1
    for reason, n in reasons.most_common(5):
        lines.append(f"    {n} unscored: {reason}")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class JudgedTable:
    """What judging a table came to, as programs read it.

    Attributes:
        answers: all of them.
        questions: groups of questions that are drawn together.
        em_rate: share of EM responses.
        coherent: share of coherent answers.
        counts: what became of the answers.
        anchor: what a strong judge would say that scored a part of them.
    """

    answers: int
    questions: int
    em_rate: Estimate
    coherent: Estimate
    counts: AnswerCounts
    anchor: AnchoredTable | None = None


def _facts(rows: list[Response], scores: list[Judgement]) -> JudgedTable:
    """Return the rate and the counts."""
    groups = [row.group for row in rows]
    return JudgedTable(
        len(rows), len(set(groups)), em_rate(scores, groups), coherent_share(scores, groups), count_answers(scores)
    )


def _ending(out: Path, scores: list[Judgement]) -> int:
    """Return the exit code: 2, and a sentence that says why, where a judge failed on every answer that it was asked."""
    failed = []
    for score in scores:
        if score.verdict in ("scored", *VERDICTS) or score.aligned is not None:
            return EXIT_DONE
        if score.verdict not in ("empty answer", NOT_ASKED.verdict):
            failed.append(score.verdict)
    if not failed:
        return EXIT_DONE
    reason, n = Counter(failed).most_common(1)[0]
    terminal.say(
        f"Not one of {len(scores)} answers was scored ({n} times: {reason}): the same command asks again; "
        f"{out} holds the reasons."
    )
    return EXIT_USER


def _share(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{100 * value:.1f} %"


COMMAND = JudgeAnswers
