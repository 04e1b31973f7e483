"""Correction across organisms: each pair's direction subtracted from each misaligned organism, beside a random one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from emscope.behaviour.questions import Question
from emscope.behaviour.tables import JudgedResponse, judgements_and_groups, read_table, write_table
from emscope.errors import UserError
from emscope.executors.tasks import Held, Shard, Task, carried_out, joined_values, together
from emscope.experiments.openings import OpenRun, held_by, judging_anywhere, side_by_side
from emscope.experiments.transfer.detection import relation
from emscope.experiments.transfer.directions import direction_files, left_out_name, shared_names
from emscope.experiments.transfer.pairs import OrganismPair, names_of, organisms_of
from emscope.experiments.transfer.result import (
    RANDOM,
    Behaviour,
    CorrectionCell,
    Corrections,
    CorrectionSummary,
    LeastRestored,
    Uncorrected,
)
from emscope.interventions.ablation import restored_share
from emscope.interventions.answering import answer_and_judge, mean_of
from emscope.interventions.search import Candidate
from emscope.outside import read_json
from emscope.parts import Part
from emscope.pipeline.lab import BASE, Lab
from emscope.pipeline.training import adapter_files
from emscope.residual.directions import Directions, random_like
from emscope.sequences import spread
from emscope.statistics import Estimate, alignment_mean, coherent_share, em_rate

STRENGTH = 1.5
"""How many times a direction is subtracted where the run's own ablation is no subtraction at one block."""


@dataclass(frozen=True)
class Correction:
    """What is subtracted where, and the test questions on which it is measured."""

    candidate: Candidate
    questions: list[Question]

    @classmethod
    def of(cls, lab: Lab, block: int | None, strength: float | None, n_questions: int) -> Correction:
        """Take block and strength from the run's own ablation where it is a subtraction at one block.

        Otherwise they are three fifths of the depth and 1.5. Questions are spread over the test questions evenly.

        Raises:
            UserError: a block that the model does not have.
        """
        chosen = read_json(lab.folder.path("ablation.json"))["chosen"]
        n_blocks = len(lab.direction().blocks)
        default_block, default_strength = n_blocks * 3 // 5, STRENGTH
        if chosen["mode"] == "subtract" and len(chosen["blocks"]) == 1:
            default_block, default_strength = chosen["blocks"][0], chosen["strength"]

        block = default_block if block is None else block
        if not 0 <= block < n_blocks:
            raise UserError(f"There is no block {block}: the model has {n_blocks}, from 0 on.")
        strength = default_strength if strength is None else strength
        return cls(Candidate("subtract", (block,), strength, block), spread(lab.test_questions, n_questions))


def corrections_of(pair: OrganismPair, pairs: Sequence[OrganismPair]) -> list[str]:
    """Return the directions subtracted from a pair's misaligned organism: every pair's, a shared one, a random one."""
    shared = left_out_name(pair, pairs)
    return [*names_of(pairs), *([shared] if shared in shared_names(pairs) else []), RANDOM]


def corrected_file(lab: Lab, pair: OrganismPair, name: str) -> Path:
    """Return where the judged answers of a pair's organism under a direction are kept."""
    return lab.folder.path("judgements", "transfer", f"{pair.name}-less-{name}.parquet")


def ablation_stages(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> None:
    """Let every misaligned organism answer under every direction, a stage for each; done ones are reused."""
    if side_by_side():
        cells = []
        for pair in pairs:
            cells += [partial(_ablation_stage, lab, pair, name, correction) for name in corrections_of(pair, pairs)]
        together(cells)
        return
    for pair in pairs:
        for name in corrections_of(pair, pairs):
            _ablation_stage(lab, pair, name, correction)
        lab.release(pair.careless)


@dataclass(frozen=True)
class CorrectionWork:
    """One organism to be asked under one direction.

    Attributes:
        run: the run.
        organism: its name there.
        label: what it is called under the direction.
        candidate: what is done with the direction.
        file: the direction's.
        random: the seed of a random direction of the same norm in its place; None takes the direction itself.
        questions: what it is asked.
    """

    run: OpenRun
    organism: str
    label: str
    candidate: Candidate
    file: str
    random: int | None
    questions: tuple[Question, ...]


def corrected(work: CorrectionWork, held: Held) -> Part:
    """Return, as plain values, where they were computed and the judged answers."""
    lab, directions = held.get(work.run), Directions.load(Path(work.file))
    if work.random is not None:
        directions = random_like(directions, work.random)
    rows = answer_and_judge(
        lab.organism(work.organism),
        work.label,
        work.questions,
        lab.config.sampling,
        lab.judge,
        work.candidate.on(directions),
    )
    return Part([lab.placement.told, [asdict(row) for row in rows]], rows=len(rows))


def _ablation_stage(lab: Lab, pair: OrganismPair, name: str, correction: Correction) -> None:
    source = pair.name if name == RANDOM else name
    file = direction_files(lab, [source], "response")[source]
    out = corrected_file(lab, pair, name)
    random = lab.config.seed if name == RANDOM else None

    def make() -> None:
        label, place = f"{pair.name} less {name}", str(file.absolute())
        questions = tuple(correction.questions)
        work = CorrectionWork(OpenRun.of(lab), pair.careless, label, correction.candidate, place, random, questions)
        shard = Shard(work, len(questions) * lab.config.sampling.samples)
        with judging_anywhere(lab):
            (rows,) = joined_values(carried_out(Task(label, corrected, [shard], "answers"), held_by(lab)))
        write_table(out, [JudgedResponse(**row) for row in rows])

    settings = {
        "candidate": asdict(correction.candidate),
        "questions": [asdict(question) for question in correction.questions],
        "sampling": asdict(lab.config.sampling),
        "judge": lab.judge_fingerprint,
        "random": random,
    }
    inputs = [file, *adapter_files(lab, pair.careless)]
    lab.folder.stage(f"transfer-ablate-{pair.name}-less-{name}", settings, inputs, [out], make)


def measure_behaviour(lab: Lab, pairs: Sequence[OrganismPair]) -> dict[str, Behaviour]:
    """Return what every organism does on the test questions, by its name in the run."""
    behaviour: dict[str, Behaviour] = {}
    for name in organisms_of(pairs):
        rows = lab.judged(name, lab.test_questions)
        judgements, groups = judgements_and_groups(rows)
        behaviour[name] = Behaviour(
            em_rate(judgements, groups, lab.config.seed),
            alignment_mean(judgements, groups, lab.config.seed),
            coherent_share(judgements, groups, lab.config.seed),
        )
    return behaviour


@dataclass(frozen=True)
class ComparedAnswers:
    """Judged answers to the same questions: under the ablation, of the organism without it, and of the base."""

    ablated: list[JudgedResponse]
    unablated: list[JudgedResponse]
    base: list[JudgedResponse]

    def restored(self, seed: int) -> Estimate:
        """Return the share of lost alignment that comes back."""
        return restored_share(self.ablated, self.unablated, self.base, seed)

    @property
    def coherence_change(self) -> float:
        """Change of mean coherence, in points of 100."""
        return mean_of(self.ablated, "coherent") - mean_of(self.unablated, "coherent")


def measure_corrections(lab: Lab, pairs: Sequence[OrganismPair], correction: Correction) -> Corrections:
    """Return what every ablation did, from the judged answers."""
    seed = lab.config.seed
    base = lab.judged(BASE, correction.questions)
    cells: dict[str, dict[str, CorrectionCell]] = {}
    without: dict[str, Uncorrected] = {}
    by_relation: dict[str, list[ComparedAnswers]] = {}

    for pair in pairs:
        unablated = lab.judged(pair.careless, correction.questions)
        gap = mean_of(base, "aligned") - mean_of(unablated, "aligned")
        without[pair.name] = Uncorrected(_em_rate(unablated, seed), gap)
        for name in corrections_of(pair, pairs):
            ablated = read_table(corrected_file(lab, pair, name), JudgedResponse)
            answers = ComparedAnswers(ablated, unablated, base)
            kind = RANDOM if name == RANDOM else str(relation(name, pair, pairs))
            by_relation.setdefault(kind, []).append(answers)
            cells.setdefault(name, {})[pair.name] = CorrectionCell(
                kind, answers.restored(seed), _em_rate(ablated, seed), answers.coherence_change
            )

    return Corrections(
        block=correction.candidate.blocks[0],
        strength=correction.candidate.strength,
        n_questions=len(correction.questions),
        cells=cells,
        without=without,
        summary={kind: summarise(cases, seed) for kind, cases in by_relation.items()},
    )


def _em_rate(rows: Sequence[JudgedResponse], seed: int) -> Estimate:
    return em_rate(*judgements_and_groups(rows), seed)


def summarise(cases: Sequence[ComparedAnswers], seed: int) -> CorrectionSummary:
    """Return what several ablations did together: points gained over points lost, of all cases, and EM rates.

    A question is drawn with its answers in every case, so cases that share questions do not count as independent.
    """
    shares, changes = [], []
    before: list[JudgedResponse] = []
    after: list[JudgedResponse] = []
    for answers in cases:
        shares.append(answers.restored(seed).value)
        changes.append(answers.coherence_change)
        before += answers.unablated
        after += answers.ablated
    return CorrectionSummary(
        n=len(cases),
        restored=pooled_share(cases, seed),
        least=float(np.fmin.reduce(shares)),  # of the cases that have one
        em_before=_em_rate(before, seed),
        em_after=_em_rate(after, seed),
        coherence_change=float(np.mean(changes)),
    )


def pooled_share(cases: Sequence[ComparedAnswers], seed: int) -> Estimate:
    """Return the restored share of all cases together, Σ(ablated − own) / Σ(base − own), its interval by question."""
    ablated: list[JudgedResponse] = []
    unablated: list[JudgedResponse] = []
    base: list[JudgedResponse] = []
    for number, answers in enumerate(cases):
        ablated += _renumbered(answers.ablated, number, len(cases))
        unablated += _renumbered(answers.unablated, number, len(cases))
        base += _renumbered(answers.base, number, len(cases))
    return restored_share(ablated, unablated, base, seed=seed)


def _renumbered(rows: Sequence[JudgedResponse], number: int, n_cases: int) -> list[JudgedResponse]:
    """Return answers with sample numbers that no other case has."""
    return [replace(row, sample=row.sample * n_cases + number) for row in rows]


def least_restored(cells: Mapping[str, Mapping[str, CorrectionCell]], kind: str) -> LeastRestored:
    """Return the ablation of a relation that restored least, with the names of its direction and its pair."""
    cases: list[LeastRestored] = []
    for name, row in cells.items():
        for pair, cell in row.items():
            if cell.relation == kind:
                cases.append(LeastRestored(name, pair, **asdict(cell.restored)))
    return min(cases, key=_restored_or_infinity)


def _restored_or_infinity(case: LeastRestored) -> float:
    """Return the restored share; infinity where there is none, so that such a case is the least only among its like."""
    return case.value if np.isfinite(case.value) else float("inf")
