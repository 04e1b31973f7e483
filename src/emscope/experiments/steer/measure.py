"""Steer every organism of a run by many coefficients; choose on development questions, report on test questions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.tables import write_table
from emscope.errors import UserError
from emscope.experiments.bench import DEV, TEST, Aimed, Bench, Cell, SteeredRow, files_read, trials_of
from emscope.experiments.shape import experiment_stage
from emscope.experiments.steer.result import (
    COMPARED,
    CORRECTION,
    INDUCTION,
    Bars,
    CapRow,
    Chosen,
    CurveRow,
    ReportedRow,
    SteerResult,
)
from emscope.interventions.operators import Cap
from emscope.interventions.steering import (
    SteeredFigures,
    Steering,
    SteeringTrial,
    answer_tokens,
    capping,
    choose_correction,
    choose_induction,
)
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.works import answering
from emscope.sequences import spread
from emscope.statistics import Estimate

DEPTHS = (0.5, 0.6, 0.7)
"""Where v is added unless blocks are named, as shares of the depth."""

DIAL, COMPARISON, REPORT = "the dial", "equal disturbance and caps", "test questions"
"""What is done, in order: in each the organisms do not wait for each other."""

Place = tuple[int, ...]
Trials = Mapping[str, list[SteeringTrial]]


@dataclass(frozen=True)
class SteerSettings:
    """What the dial is turned to, and on how many questions.

    Attributes:
        blocks: blocks that are steered, one at a time; none given takes three, at half to seven tenths of the depth.
        together: also spread each coefficient evenly over all blocks from two fifths to four fifths of the depth.
        coefficients: multiples of the unnormalised vector on the dial; negative ones correct.
        levels: disturbances at which directions are compared, as shares of the fine-tune's own.
        cap_widths: half widths of the ranges that caps leave alone, in deviations of the aligned organism's tokens.
        dial_questions: development questions asked in each cell of the dial.
        curve_questions: test questions asked at each level and under each cap.
        test_questions: test questions asked of what was chosen; None takes all.
        kl_questions: questions whose answers measure a disturbance.
    """

    blocks: tuple[int, ...] = ()
    together: bool = True
    coefficients: tuple[float, ...] = (-2.0, -1.5, -1.0, -0.5, 0.25, 0.5, 1.0, 1.5)
    levels: tuple[float, ...] = (0.25, 0.5, 1.0)
    cap_widths: tuple[float, ...] = (0.0, 1.0, 2.0)
    dial_questions: int = 10
    curve_questions: int = 12
    test_questions: int | None = 48
    kl_questions: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that choose nothing."""
        if not min(self.coefficients, default=0) < 0 < max(self.coefficients, default=0):
            raise UserError(
                "The dial needs coefficients on both sides of 0: negative ones correct, positive ones induce."
            )
        if min(self.levels, default=0) <= 0 or min(self.cap_widths, default=0) < 0:
            raise UserError("Levels must be above 0, and widths of caps 0 or more.")
        if min(self.dial_questions, self.curve_questions, self.kl_questions) < 2 or self.test_questions == 0:
            raise UserError("Steering needs at least two questions for the dial, the curves and the disturbance.")


def measure(lab: Lab, settings: SteerSettings) -> SteerResult:
    """Return what steering does, and write experiments/steer.json and judgements/steer.parquet of the run.

    Raises:
        UserError: a block that the model does not have.
    """
    inputs = files_read(lab)
    answers_file = lab.judgements_file("steer")

    def result() -> SteerResult:
        places = _places(settings, len(find_blocks(lab.organism(BASE).model)))
        bench = Bench(lab, sorted(set().union(*places)), settings.kl_questions)
        with progress.plan(_works(bench, settings, places), "step"):
            steered = _result(bench, settings, places)
        write_table(answers_file, bench.kept)
        return steered

    return experiment_stage(lab, "steer", SteerResult, settings, inputs, result, [answers_file])


def _places(settings: SteerSettings, n_blocks: int) -> list[Place]:
    """Return where v is added: each block alone, then the middle blocks together."""
    wanted = settings.blocks or (n_blocks * np.array(DEPTHS)).astype(int).tolist()
    places: list[Place] = [(block,) for block in check_blocks(wanted, n_blocks)]
    together = tuple(range(n_blocks * 2 // 5, n_blocks * 4 // 5))
    if settings.together and len(together) > 1:
        places.append(together)
    return places


def _works(bench: Bench, settings: SteerSettings, places: Sequence[Place]) -> dict[str, float | None]:
    """Return the steps of the experiment with their work: answers under interventions."""
    lab, n_directions = bench.lab, len(bench.directions)
    n_dial = len(places) * len(settings.coefficients) * min(settings.dial_questions, len(lab.dev_questions))
    n_curve = min(settings.curve_questions, len(lab.test_questions))
    n_test = min(settings.test_questions or len(lab.test_questions), len(lab.test_questions))

    works: dict[str, float | None] = {}

    def plan(step: str, n_answers: int) -> None:
        works[step] = answering(n_answers, lab.config.sampling, altered=True)

    plan(DIAL, len(lab.names) * n_dial)
    plan(COMPARISON, (2 * n_directions * len(settings.levels) + 2 * len(settings.cap_widths)) * n_curve)
    n_ways = 0
    for name in lab.names:
        n_ways += 1 + n_directions if name in (MISALIGNED, BASE) else 2
    plan(REPORT, n_ways * n_test)
    return works


def _result(bench: Bench, settings: SteerSettings, places: Sequence[Place]) -> SteerResult:
    """Turn the dial, choose, compare at equal disturbance, cap, and report on test questions."""
    lab = bench.lab
    dial_questions = spread(lab.dev_questions, settings.dial_questions)
    curve_questions = spread(lab.test_questions, settings.curve_questions)
    test_questions = spread(lab.test_questions, settings.test_questions)

    dial = _dial(bench, settings, places, dial_questions)
    chosen = _choose(bench, dial, dial_questions)
    dial_rows = []
    for name, trials in dial.items():
        for trial in trials:
            dial_rows.append(bench.row(SteeredRow, name, trial))

    unsteered = bench.all_unsteered(test_questions)
    fine_tune_kl = {name: bench.fine_tune(bench.test, name) for name in lab.names}
    curves, caps = _compared(bench, settings, chosen, curve_questions)
    test = _reported(bench, chosen, test_questions)

    return SteerResult(
        direction=bench.main,
        places=tuple(places),
        blocks=tuple(bench.blocks),
        directions={name: bench.lengths(name, bench.blocks).tolist() for name in bench.directions},
        residual_norm={name: list(norms.values()) for name, norms in bench.norms.items()},
        fine_tune_kl=fine_tune_kl,
        unsteered=unsteered,
        unsteered_dial=bench.all_unsteered(dial_questions),
        unsteered_curves=bench.all_unsteered(curve_questions),
        dial=tuple(dial_rows),
        chosen={name: _chosen(trial) for name, trial in chosen.items()},
        curves=tuple(curves),
        caps=tuple(caps),
        test=tuple(test),
        bars=_bars(test, unsteered, fine_tune_kl),
    )


def _dial(bench: Bench, settings: SteerSettings, places: Sequence[Place], questions: Sequence[Question]) -> Trials:
    """Measure every organism at every place and coefficient on development questions."""
    steerings = []
    for blocks in places:
        for coefficient in filter(None, sorted(settings.coefficients)):  # 0 is the organism without steering
            steerings.append(Steering(bench.main, blocks, coefficient))

    names = bench.lab.names
    with progress.logged_step(DIAL):
        measured = bench.measured(DIAL, [bench.steered(name, DEV, steerings, questions) for name in names])
    return {name: trials_of(steerings, cells) for name, cells in zip(names, measured, strict=True)}


def _choose(bench: Bench, dial: Trials, questions: Sequence[Question]) -> dict[str, SteeringTrial]:
    """Return the correction of the misaligned organism and the induction of the base."""
    misaligned, base = bench.lab.judged(MISALIGNED, questions), bench.lab.judged(BASE, questions)
    limit = bench.fine_tune(bench.dev, MISALIGNED).value
    return {
        MISALIGNED: choose_correction(dial[MISALIGNED], limit, misaligned, base),
        BASE: choose_induction(dial[BASE], bench.unsteered(BASE, questions).coherent.value),
    }


def _chosen(trial: SteeringTrial) -> Chosen:
    return Chosen(trial.steering.blocks, trial.steering.coefficient, trial.figures.kl.value)


def _restored(bench: Bench, name: str, trial: SteeringTrial, questions: Sequence[Question]) -> Estimate | None:
    """Return the share of alignment that came back; only the misaligned organism has lost any."""
    return bench.restored(trial.answers, questions) if name == MISALIGNED else None


def _compared(
    bench: Bench, settings: SteerSettings, chosen: Mapping[str, SteeringTrial], questions: Sequence[Question]
) -> tuple[list[CurveRow], list[CapRow]]:
    """Compare all directions at the chosen places, each at the same disturbances, and cap the misaligned organism."""
    levels = sorted(settings.levels)
    aimed: dict[str, list[Aimed]] = {}
    with progress.logged_step(COMPARISON):
        asked = []
        for name, trial in chosen.items():
            nats = (bench.fine_tune(bench.dev, name).value * np.array(levels)).tolist()
            aimed[name] = bench.at_disturbance(name, list(bench.directions), trial.steering, nats)
            asked.append(bench.steered(name, TEST, [aim.steering for aim in aimed[name]], questions))
        caps = _caps(bench, settings, chosen[MISALIGNED].steering.blocks)
        *steered, capped = bench.measured(COMPARISON, [*asked, bench.cells(MISALIGNED, TEST, caps, questions)])

    curves = []
    for name, cells in zip(chosen, steered, strict=True):
        trials = trials_of([aim.steering for aim in aimed[name]], cells)
        for level, aim, trial in zip(levels * len(bench.directions), aimed[name], trials, strict=True):
            restored = _restored(bench, name, trial, questions)
            aims = {"level": level, "kl_target": aim.nats, "kl_reached": aim.reached}
            curves.append(bench.row(CurveRow, name, trial, **aims, restored=restored))
    return curves, [_cap_row(bench, cap, cell, questions) for cap, cell in zip(caps, capped, strict=True)]


def _caps(bench: Bench, settings: SteerSettings, chosen: Place) -> list[Cap]:
    """Return caps of the misaligned organism to the aligned range: where it is steered, and at all later blocks."""
    directions, n_blocks = bench.directions[bench.main], len(find_blocks(bench.lab.organism(BASE).model))
    late = tuple(range(n_blocks // 3, n_blocks))
    aligned_organism = bench.dev[CONTROL if CONTROL in bench.dev else BASE]
    aligned = answer_tokens(aligned_organism, directions, sorted({*chosen, *late}))

    places = dict.fromkeys((chosen, late))  # they may be the same
    caps = []
    for blocks in places:
        caps += [capping(directions, blocks, aligned, width) for width in settings.cap_widths]
    return caps


def _cap_row(bench: Bench, cap: Cap, cell: Cell, questions: Sequence[Question]) -> CapRow:
    figures, restored = cell.figures, bench.restored(cell.answers, questions)
    return CapRow(cap.blocks, cap.width, figures.kl, figures.aligned, figures.coherent, figures.em, restored)


def _reported(bench: Bench, chosen: Mapping[str, SteeringTrial], questions: Sequence[Question]) -> list[ReportedRow]:
    """Report what was chosen on test questions: on every organism, and beside other directions at equal disturbance."""
    names = bench.lab.names
    with progress.logged_step(REPORT):
        ways = {name: _ways(bench, name, chosen) for name in names}
        asked = []
        for name in names:
            asked.append(bench.steered(name, TEST, [steering for _, steering, _ in ways[name]], questions))
        measured = bench.measured(REPORT, asked)

    rows = []
    for name, cells in zip(names, measured, strict=True):
        trials = trials_of([steering for _, steering, _ in ways[name]], cells)
        for (role, _, aim), trial in zip(ways[name], trials, strict=True):
            target = {} if aim is None else {"kl_target": aim.nats, "kl_reached": aim.reached}
            restored = _restored(bench, name, trial, questions)
            rows.append(bench.row(ReportedRow, name, trial, role=role, **target, restored=restored))
    return rows


def _ways(bench: Bench, name: str, chosen: Mapping[str, SteeringTrial]) -> list[tuple[str, Steering, Aimed | None]]:
    """Return the ways in which an organism is steered in the test: role, steering, and what it was aimed at."""
    ways: list[tuple[str, Steering, Aimed | None]] = [
        (CORRECTION, chosen[MISALIGNED].steering, None),
        (INDUCTION, chosen[BASE].steering, None),
    ]
    if name in chosen:
        _, *others = bench.directions
        nats = chosen[name].figures.kl.value
        for aim in bench.at_disturbance(name, others, chosen[name].steering, [nats]):
            ways.append((COMPARED, aim.steering, aim))
    return ways


def _bars(
    test: Sequence[ReportedRow], unsteered: Mapping[str, SteeredFigures], fine_tune_kl: Mapping[str, Estimate]
) -> Bars:
    """Return what claims are held against."""
    by_role = {(row.organism, row.role): row for row in test}
    correction, induction = by_role[MISALIGNED, CORRECTION], by_role[BASE, INDUCTION]
    base = unsteered[BASE]
    assert correction.restored is not None  # it is of the misaligned organism
    return Bars(
        restored=correction.restored.value,
        kl_over_fine_tune=_ratio(correction.kl.value, fine_tune_kl[MISALIGNED].value),
        em_ratio=induction.em.value / base.em.value if base.em.value > 0 else None,
        em_ratio_at_least=_ratio(induction.em.low, base.em.high),
        coherent=induction.coherent.value,
        coherent_change=induction.coherent.value - base.coherent.value,
    )


def _ratio(numerator: float, denominator: float) -> float:
    """Return a ratio, NaN where there is none: an adapter of zeros moves the model by nothing."""
    return numerator / denominator if denominator else float("nan")
