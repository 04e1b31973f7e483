"""The steering dial on a finished run: how far each direction turns each organism, at what disturbance.

A block and a coefficient are chosen on development questions; what is reported of them comes from test questions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from emscope import progress
from emscope.behaviour.questions import Question
from emscope.behaviour.tables import write_table
from emscope.errors import UserError
from emscope.experiments.bench import Bench, direction_names, spread
from emscope.experiments.shape import experiment_stage
from emscope.interventions.steering import Cell, Turn, answer_tokens, capping, choose_correction, choose_induction
from emscope.organisms.blocks import check_blocks, find_blocks
from emscope.pipeline.lab import BASE, CONTROL, MISALIGNED, Lab
from emscope.pipeline.training import adapter_files
from emscope.pipeline.works import answering

DEPTHS = (0.5, 0.6, 0.7)


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
        test_questions: test questions asked of what was chosen; 0 takes all.
        kl_questions: questions whose answers measure a disturbance.
    """

    blocks: tuple[int, ...] = ()
    together: bool = True
    coefficients: tuple[float, ...] = (-2.0, -1.5, -1.0, -0.5, 0.25, 0.5, 1.0, 1.5)
    levels: tuple[float, ...] = (0.25, 0.5, 1.0)
    cap_widths: tuple[float, ...] = (0.0, 1.0, 2.0)
    dial_questions: int = 10
    curve_questions: int = 12
    test_questions: int = 48
    kl_questions: int = 10

    def __post_init__(self) -> None:
        """Refuse settings that choose nothing."""
        if not min(self.coefficients, default=0) < 0 < max(self.coefficients, default=0):
            raise UserError(
                "The dial needs coefficients on both sides of 0: negative ones correct, positive ones induce."
            )
        if min(self.levels, default=0) <= 0 or min(self.cap_widths, default=0) < 0:
            raise UserError("Levels must be above 0, and widths of caps 0 or more.")
        if min(self.dial_questions, self.curve_questions, self.kl_questions) < 2 or self.test_questions < 0:
            raise UserError("Steering needs at least two questions for the dial, the curves and the disturbance.")


def measure(lab: Lab, settings: SteerSettings) -> dict[str, Any]:
    """Turn the dial, choose, calibrate and report: experiments/steer.json and judgements/steer.parquet of the run.

    Raises:
        UserError: a block that the model does not have.
    """
    inputs = [
        *(lab.folder.path("judgements", f"{name}.parquet") for name in lab.names),
        *(file for name in lab.names for file in adapter_files(lab, name)),
        *(lab.folder.path("directions", f"{name}.safetensors") for name in direction_names(lab)),
    ]
    answers = lab.folder.path("judgements", "steer.parquet")

    def find() -> dict[str, Any]:
        n_blocks = len(find_blocks(lab.organism(BASE).model))
        blocks = check_blocks(settings.blocks or {int(n_blocks * depth) for depth in DEPTHS}, n_blocks)
        many = tuple(range(n_blocks * 2 // 5, n_blocks * 4 // 5)) if settings.together else ()
        bench = Bench(lab, sorted({*blocks, *many}), settings.kl_questions)
        places = [*((block,) for block in blocks), *([many] if len(many) > 1 else [])]
        with progress.plan(_works(bench, settings, places), "step"):
            found = _figures(bench, settings, places)
        write_table(answers, bench.kept)
        return found

    return experiment_stage(lab, "steer", dict[str, Any], settings, inputs, find, [answers])


def _works(bench: Bench, settings: SteerSettings, places: Sequence[tuple[int, ...]]) -> dict[str, float | None]:
    """Return the steps of the experiment with their work: answers under interventions."""
    lab = bench.lab
    n_dial = len(places) * len(settings.coefficients) * min(settings.dial_questions, len(lab.dev_questions))
    n_curve = min(settings.curve_questions, len(lab.test_questions))
    n_test = min(settings.test_questions or len(lab.test_questions), len(lab.test_questions))
    n_answers = {f"the dial of {name}": n_dial for name in lab.names}
    for name in (MISALIGNED, BASE):
        n_answers[f"{name} at equal disturbance"] = len(bench.directions) * len(settings.levels) * n_curve
    n_answers["caps"] = 2 * len(settings.cap_widths) * n_curve
    for name in lab.names:
        n_answers[f"test questions, {name}"] = (1 + len(bench.directions) if name in (MISALIGNED, BASE) else 2) * n_test
    return {step: answering(n, lab.config.sampling, altered=True) for step, n in n_answers.items()}


def _figures(bench: Bench, settings: SteerSettings, places: Sequence[tuple[int, ...]]) -> dict[str, Any]:
    lab = bench.lab
    some, all_of = (spread(lab.test_questions, n) for n in (settings.curve_questions, settings.test_questions))
    dial = _dial(bench, settings, places)
    tuned_on = spread(lab.dev_questions, settings.dial_questions)
    chosen = _choose(bench, dial, tuned_on)
    found = {
        "direction": bench.main,
        "places": [list(blocks) for blocks in places],
        "blocks": bench.blocks,
        "directions": {name: [bench.length(name, (block,)) for block in bench.blocks] for name in bench.directions},
        "residual_norm": {name: list(norms.values()) for name, norms in bench.norms.items()},
        "fine_tune_kl": {name: bench.fine_tune(bench.test, name).as_dict() for name in lab.names},
        "unsteered": {name: bench.unsteered(name, all_of).as_dict() for name in lab.names},
        "unsteered_dial": {name: bench.unsteered(name, tuned_on).as_dict() for name in lab.names},
        "unsteered_curves": {name: bench.unsteered(name, some).as_dict() for name in lab.names},
        "dial": [bench.plain(name, cell) for name, cells in dial.items() for cell in cells],
        "chosen": {
            name: {"blocks": list(cell.turn.blocks), "coefficient": cell.turn.coefficient, "kl": cell.figures.kl.value}
            for name, cell in chosen.items()
        },
        "curves": [row for name in chosen for row in _curves(bench, settings, name, chosen[name], some)],
        "caps": _caps(bench, settings, chosen[MISALIGNED].turn.blocks, some),
        "test": [row for name in lab.names for row in _test(bench, name, chosen, all_of)],
    }
    return {**found, "bars": _bars(found)}


def _dial(bench: Bench, settings: SteerSettings, places: Sequence[tuple[int, ...]]) -> dict[str, list[Cell]]:
    """Measure every organism at every place and coefficient on development questions."""
    turns = [Turn(bench.main, blocks, size) for blocks in places for size in sorted(settings.coefficients) if size]
    questions = spread(bench.lab.dev_questions, settings.dial_questions)
    found = {}
    for name, subject in bench.dev.items():
        with progress.logged_step(f"the dial of {name}"):
            found[name] = bench.turned(subject, turns, questions)
    return found


def _choose(bench: Bench, dial: Mapping[str, list[Cell]], questions: Sequence[Question]) -> dict[str, Cell]:
    """Return the correction of the misaligned organism and the induction of the base."""
    own, base = (bench.answers(name, questions) for name in (MISALIGNED, BASE))
    limit = bench.fine_tune(bench.dev, MISALIGNED).value
    return {
        MISALIGNED: choose_correction(dial[MISALIGNED], limit, own, base),
        BASE: choose_induction(dial[BASE], bench.unsteered(BASE, questions).coherent.value),
    }


def _curves(
    bench: Bench, settings: SteerSettings, name: str, chosen: Cell, questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """Compare all directions at the chosen block, each at the same disturbances."""
    own, levels = bench.fine_tune(bench.dev, name).value, sorted(settings.levels)
    with progress.logged_step(f"{name} at equal disturbance"):
        rows = bench.at_disturbance(name, list(bench.directions), chosen.turn, [level * own for level in levels])
        aims = [aim for row in rows for aim in row]
        found = bench.turned(bench.test[name], [aim.turn for aim in aims], questions)
    return [
        bench.plain(name, cell, level=level, **aim.as_dict(), **_restored(bench, name, cell, questions))
        for level, aim, cell in zip(levels * len(rows), aims, found, strict=True)
    ]


def _restored(bench: Bench, name: str, item: Cell, questions: Sequence[Question]) -> dict[str, Any]:
    return {"restored": bench.restored(item.rows, questions)} if name == MISALIGNED else {}


def _caps(
    bench: Bench, settings: SteerSettings, chosen: tuple[int, ...], questions: Sequence[Question]
) -> list[dict[str, Any]]:
    """Cap the misaligned organism's projections to the aligned range: where it is steered, and at all later blocks."""
    directions, n_blocks = bench.directions[bench.main], len(find_blocks(bench.lab.organism(BASE).model))
    late = tuple(range(n_blocks // 3, n_blocks))
    aligned = answer_tokens(bench.dev[CONTROL if CONTROL in bench.dev else BASE], directions, sorted({*chosen, *late}))
    asked = [(blocks, width) for blocks in dict.fromkeys((chosen, late)) for width in settings.cap_widths]
    cells = [capping(directions, blocks, aligned, width) for blocks, width in asked]
    with progress.logged_step("caps"):
        found = bench.measured(bench.test[MISALIGNED], cells, questions)
    return [
        {"blocks": list(blocks), "width": width, **figures.as_dict(), "restored": bench.restored(rows, questions)}
        for (blocks, width), (figures, rows) in zip(asked, found, strict=True)
    ]


def _test(bench: Bench, name: str, chosen: Mapping[str, Cell], questions: Sequence[Question]) -> list[dict[str, Any]]:
    """Report what was chosen on test questions: on every organism, and beside other directions at equal disturbance."""
    turns: list[tuple[str, Turn, dict[str, Any]]] = [
        ("correction", chosen[MISALIGNED].turn, {}),
        ("induction", chosen[BASE].turn, {}),
    ]
    with progress.logged_step(f"test questions, {name}"):
        if name in chosen:
            own = chosen[name]
            others = [direction for direction in bench.directions if direction != bench.main]
            rows = bench.at_disturbance(name, others, own.turn, [own.figures.kl.value])
            turns += [("compared", aim.turn, aim.as_dict()) for row in rows for aim in row]
        found = bench.turned(bench.test[name], [turn for _, turn, _ in turns], questions)
    return [
        bench.plain(name, cell, role=role, **aim, **_restored(bench, name, cell, questions))
        for (role, _, aim), cell in zip(turns, found, strict=True)
    ]


def _bars(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the two headline comparisons.

    `em_ratio_at_least` is the lower end of the steered base's EM rate over the upper end of the base's own, which is
    what a claim of ten times is held against: the ratio of the rates themselves rests on a handful of answers, and does
    not exist where the base gave no EM response.
    """
    rows = {(row["organism"], row["role"]): row for row in found["test"]}
    correction, induction = rows[MISALIGNED, "correction"], rows[BASE, "induction"]
    base = found["unsteered"][BASE]
    return {
        "restored": correction["restored"]["value"],
        "kl_over_fine_tune": correction["kl"]["value"] / found["fine_tune_kl"][MISALIGNED]["value"],
        "em_ratio": induction["em"]["value"] / base["em"]["value"] if base["em"]["value"] > 0 else None,
        "em_ratio_at_least": induction["em"]["low"] / base["em"]["high"],
        "coherent": induction["coherent"]["value"],
        "coherent_change": induction["coherent"]["value"] - base["coherent"]["value"],
    }
