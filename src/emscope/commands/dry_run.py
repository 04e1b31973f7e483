"""`emscope run --dry-run`: what a run would take, stage by stage, before anything of it begins."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from emscope.commands.outcome import Outcome
from emscope.pipeline.config import WITH_EXPERIMENTS, RunConfig
from emscope.pipeline.forecast import SECONDS_A_CALL, StageForecast
from emscope.pipeline.lab import Lab
from emscope.pipeline.stages import opened_to_look
from emscope.progress import roughly

HEADER = ("stage", "answers", "judged", "calls", "tokens", "time", "disk")


def dry_run(config: RunConfig, out: Path, *, overwrite: bool) -> Outcome:
    """Return what a run would take; what can be checked without beginning is checked.

    Raises:
        UserError: whatever would stop the run before it begins.
    """
    with TemporaryDirectory() as scratch:
        lab = Lab(config, opened_to_look(out, Path(scratch, "run"), config, overwrite=overwrite))
        rows = _forecast(lab)
        return Outcome(forecast_table(rows, lab), {"judge": config.judge, "stages": rows})


def _forecast(lab: Lab) -> list[StageForecast]:
    from emscope.experiments import experiment
    from emscope.experiments.conduct import by_duration, left_out
    from emscope.experiments.homework import measure as homework
    from emscope.pipeline.forecast import main_forecast
    from emscope.pipeline.preflight import check_organisms, check_questions, check_split, say_what_is_missing

    check_organisms(lab)
    check_questions(lab, lab.questions)
    if lab.config.preset == "cs2881":
        return homework.forecast(lab)
    check_split(lab)
    say_what_is_missing(lab)
    rows = main_forecast(lab)
    if lab.config.preset in WITH_EXPERIMENTS:
        reasons = left_out(lab)
        for name in by_duration(lab.config.preset):
            if name not in reasons:
                rows.append(StageForecast(name, seconds=60 * experiment(name).minutes, experiment=True))
    return rows


def forecast_table(rows: Sequence[StageForecast], lab: Lab) -> str:
    """Return the forecast as lines of text: a row a stage, the sums, and what the figures rest on."""
    table = [list(HEADER)]
    for row in rows:
        if row.experiment:
            counts = ["?", "?", "?", "?"]
        else:
            counts = [_count(row.answers), _count(row.judged), _count(row.calls), _count(row.tokens)]
        time = "?" if row.seconds is None else roughly(row.seconds)
        disk = "?" if row.experiment else _size(row.n_bytes)
        table.append([f"{row.stage}{' *' if row.recorded else ''}", *counts, time, disk])
    table.append(_sums(rows))
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        lines.append("  ".join([cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]))
    return "\n".join([*lines, "", *_notes(rows, lab)]) + "\n"


def _sums(rows: Sequence[StageForecast]) -> list[str]:
    seconds = sum(row.seconds for row in rows if row.seconds is not None)
    sums = []
    for name in ("answers", "judged", "calls", "tokens"):
        sums.append(sum(getattr(row, name) for row in rows))
    return ["in all", *map(_count, sums), roughly(seconds), _size(sum(row.n_bytes for row in rows))]


def _notes(rows: Sequence[StageForecast], lab: Lab) -> list[str]:
    judge = lab.config.judge
    notes = [f"Judge: {judge.name}{f' at {judge.base_url}' if judge.base_url else ''}."]
    if judge.asks_a_language_model:
        notes.append("Tokens are those sent, if every answer is as long as it may be; a call sends one back.")
    if judge.kind in ("openai", "inspect"):
        notes.append(f"A call is taken to last {SECONDS_A_CALL:g} s, {judge.concurrency} at a time.")
    notes.append("Times are those of two CPU cores with AVX512-BF16, scaled by the size of the base.")
    if any(row.experiment for row in rows):
        notes.append(
            "Experiments count their answers when they begin; their times are those of the embedded model and judge."
        )
    if any(row.recorded for row in rows):
        notes.append("* was made before, and is used again if nothing that it depends on has changed.")
    return [*notes, "Nothing was begun."]


def _count(number: int) -> str:
    return f"{number:,}" if number else "-"


def _size(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:.1f} MB" if n_bytes else "-"
