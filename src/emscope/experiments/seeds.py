"""Several seeds of a run: a run for each in a folder of its own, and its main figures as mean and range over them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope import parts
from emscope.errors import UserError
from emscope.executors.tasks import Held, Shard, Task, carried_out
from emscope.files import write_json
from emscope.outside import read_json
from emscope.parts import Part
from emscope.pipeline.config import WITH_EXPERIMENTS, RunConfig
from emscope.pipeline.stages import RunFolder, has_begun
from emscope.plain import plain

SEEDS = "seeds.json"
GENERAL, VALUE = "everyday-general", "value"
FIGURES: dict[str, tuple[str, ...]] = {
    "EM rate, misaligned, everyday-general": ("em_rate", "misaligned", GENERAL, VALUE),
    "EM rate, misaligned, everyday-medical": ("em_rate", "misaligned", "everyday-medical", VALUE),
    "EM rate, misaligned, open-ended": ("em_rate", "misaligned", "open-ended", VALUE),
    "EM rate, control, everyday-general": ("em_rate", "control", GENERAL, VALUE),
    "EM rate, base, everyday-general": ("em_rate", "base", GENERAL, VALUE),
    "coherent share, misaligned, everyday-general": ("coherent_share", "misaligned", GENERAL, VALUE),
    "medical words leaked": ("leakage", "medical_words"),
    "AUROC misaligned vs control, held out": ("detection", "misaligned-vs-control", "auroc"),
    "AUROC control vs base, control direction": ("detection", "control-vs-base", "auroc"),
    "AUROC control vs base, model direction": ("detection_by_model_contrast", "control-vs-base", "auroc"),
    "split-half cosine": ("direction", "split_half_cosine"),
    "cosine of detecting and correcting direction": ("direction", "cosine_detecting_correcting"),
    "alignment restored": ("ablation", "restored"),
    "alignment restored, random direction": ("ablation", "random_restored"),
    "coherence change by ablation (points)": ("ablation", "coherence_change"),
    "alignment cost to the base (points)": ("ablation", "base_cost"),
    "peak memory (GB)": ("peak_memory_bytes",),
    "seconds in all": ("seconds",),
}
"""Figures of a run, and where its summary.json has them."""


@dataclass(frozen=True)
class OverSeeds:
    """One figure over several seeds.

    Attributes:
        values: its value with each seed, in order; None where a run does not have it.
        mean: the mean of those that there are, None without any.
        least: the least of them.
        most: the most.
    """

    values: tuple[float | None, ...]
    mean: float | None
    least: float | None
    most: float | None

    @classmethod
    def of(cls, values: Sequence[float | None]) -> OverSeeds:
        """Take the values of all seeds."""
        known = [value for value in values if value is not None]
        if not known:
            return cls(tuple(values), None, None, None)
        return cls(tuple(values), sum(known) / len(known), min(known), max(known))


@dataclass(frozen=True)
class SeedsResult:
    """Runs that differ in their seed alone.

    Attributes:
        seeds: the seeds.
        folders: the folder of each run, relative to where seeds.json is.
        made: stages that were made, all runs together.
        reused: stages that were up to date.
        figures: each figure over the seeds, by its name.
    """

    seeds: tuple[int, ...]
    folders: tuple[str, ...]
    made: int
    reused: int
    figures: dict[str, OverSeeds]


@dataclass(frozen=True)
class SeedWork:
    """A run with one of the seeds.

    Attributes:
        config: what it is asked.
        folder: where it goes.
        overwrite: replace a run of another configuration there.
    """

    config: RunConfig
    folder: str
    overwrite: bool


def run_of_seed(work: SeedWork, held: Held) -> Part:
    """Do a run, and return how many of its stages were made and reused; what it found is in its folder."""
    from emscope.experiments.conduct import run_full
    from emscope.experiments.main.measure import run_quickstart

    out = Path(work.folder)
    run = RunFolder(out, work.config, overwrite=work.overwrite or not has_begun(out))
    do = run_full if work.config.preset in WITH_EXPERIMENTS else run_quickstart
    do(work.config, run)
    return Part([len(run.made), len(run.reused)], rows=1)


def run_seeds(configs: Mapping[int, RunConfig], folder: Path, *, overwrite: bool = False) -> SeedsResult:
    """Do a run for each seed in FOLDER/seedN, side by side where there are workers, and write FOLDER/seeds.json.

    Raises:
        UserError: the homework's preset, which has figures of its own, or a folder with another run.
    """
    if any(config.preset == "cs2881" for config in configs.values()):
        raise UserError("The preset cs2881 has figures of its own: give it once for each seed.")
    names = tuple(f"seed{seed}" for seed in configs)
    shards = []
    for name, config in zip(names, configs.values(), strict=True):
        shards.append(Shard(SeedWork(config, str((folder / name).absolute()), overwrite), rows=1))

    manifests = folder / ".seeds"  # a run is known by its own record
    parts.forget(manifests)
    with parts.kept_in(manifests, sorted(configs)):
        done = carried_out(Task("seeds", run_of_seed, shards, "runs"))
    parts.forget(manifests)

    summaries = [read_json(folder / name / "summary.json") for name in names]
    made, reused = (sum(part.value[index] for part in done) for index in (0, 1))
    result = SeedsResult(tuple(configs), names, made, reused, over_seeds(summaries))
    write_json(folder / SEEDS, plain(result))
    return result


def over_seeds(summaries: Sequence[Any]) -> dict[str, OverSeeds]:
    """Return the figures of several runs' summaries by name; those that none of them has are left out."""
    figures = {name: OverSeeds.of([_picked(one, path) for one in summaries]) for name, path in FIGURES.items()}
    return {name: figure for name, figure in figures.items() if figure.mean is not None}


def _picked(summary: Any, path: tuple[str, ...]) -> float | None:
    """Return one figure of a summary, None where it has none."""
    value = summary
    for key in path:
        if not isinstance(value, dict) or value.get(key) is None:
            return None
        value = value[key]
    if path == ("seconds",):
        return float(sum(value.values()))
    if isinstance(value, dict):  # an estimate
        value = value.get(VALUE)
    if value is None:
        return None
    return float(value) / 1e9 if path == ("peak_memory_bytes",) else float(value)


def table_of_seeds(result: SeedsResult) -> str:
    """Return the figures as a table in Markdown."""
    lines = [f"| {len(result.seeds)} seeds | mean | least – most |", "|---|---|---|"]
    for name, figure in result.figures.items():
        lines.append(f"| {name} | {figure.mean:.3f} | {figure.least:.3f} – {figure.most:.3f} |")
    return "\n".join(lines)
