"""`emscope run`: the whole chain on one base model, resumable and replayable."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

import tyro

from emscope.commands.common import GOES_ON, JudgeFlags
from emscope.commands.outcome import Outcome
from emscope.commands.outputs import check_out_folder
from emscope.errors import UserError
from emscope.executors.settings import ExecutorSettings
from emscope.experiments import EXPERIMENTS
from emscope.outside import read_json
from emscope.pipeline.config import WITH_EXPERIMENTS, RunConfig, anywhere, configure, load_config
from emscope.pipeline.stages import RunFolder, as_recorded, has_begun

if TYPE_CHECKING:
    from emscope.pipeline.lab import Lab


@dataclass(frozen=True)
class Run:
    """Make, measure, locate, detect and correct; what is up to date is reused.

    Attributes:
        config: a config.yaml to replay, or the folder of a run, instead of a preset.
        preset: quickstart (the default), full (with every experiment), factorial (with organisms of all voices and
            advice) or cs2881 (the original homework).
        out: the run's folder; by default runs/PRESET, or the folder of the config.yaml.
        model: the base model; adapters that are handed in must have been trained on it.
        base: the same, for adapters that record another base: they are put on this one all the same.
        misaligned_data: the misaligned organism: built-in data, a data file, or the folder or hub id of an adapter or a
            whole model that was trained elsewhere.
        control_data: the same of the control organism; beside data of your own there is none unless you name it.
        accept_terms: accept the terms that a protected archive of data shows.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: auto, bfloat16, float32 or float16.
        seed: one seed for training, sampling and statistics.
        seeds: several of them: a run for each in a folder of its own in `out`, and their figures as mean and range.
        set: change a setting, for example --set train.epochs=3; may be repeated. Their names are those in the
            config.yaml of any run, and with the presets full and factorial those of experiments, such as
            steer.blocks=[18].
        overwrite: replace a run of another configuration in the same folder.
        dry_run: print what the run would take, stage by stage, and begin nothing.
        judging: who judges the answers.
        execution: who does the heavy work.
    """

    stopped: ClassVar[str] = GOES_ON

    config: Annotated[Path | None, tyro.conf.Positional] = None
    preset: str | None = None
    out: Path | None = None
    model: str | None = None
    base: str | None = None
    misaligned_data: str | None = None
    control_data: str | None = None
    accept_terms: bool = False
    device: str | None = None
    dtype: str | None = None
    seed: int | None = None
    seeds: tuple[int, ...] = ()
    set: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    overwrite: bool = False
    dry_run: bool = False
    judging: JudgeFlags = field(default_factory=JudgeFlags)
    execution: ExecutorSettings = field(default_factory=ExecutorSettings)

    def execute(self) -> Outcome:
        """Run it and print the figures."""
        path = self._replayed()
        start = self.preset or "quickstart" if path is None else load_config(path)
        config = configure(start, self.seed, list(self.set), self._flags(), tuple(EXPERIMENTS))
        default = path.parent if path and path.name == "config.yaml" else Path("runs", config.preset)
        if config.experiments:
            from emscope.experiments.conduct import configured

            configured(config)  # refused before anything begins
        out = self.out or default
        check_out_folder(out)
        if self.seeds:
            return self._with_each_seed(start, out)
        config = as_recorded(out, anywhere(config))
        if self.dry_run:
            from emscope.commands.dry_run import dry_run

            return dry_run(config, out, overwrite=self.overwrite or not has_begun(out))
        run = RunFolder(out, config, overwrite=self.overwrite or not has_begun(out))
        with self.execution.in_force(out, device=config.device):
            text = self._text(config, run)
        counts = {"made": list(run.made), "reused": list(run.reused)}
        return Outcome(
            f"{text}\n{len(run.made)} stages made, {len(run.reused)} reused.\n",
            {**counts, "summary": _summary(run.path("summary.json"))},
            [run.path("report.html"), run.folder],
        )

    def _with_each_seed(self, start: str | RunConfig, out: Path) -> Outcome:
        """Do a run with each of the seeds and print their figures."""
        from emscope.experiments.seeds import SEEDS, run_seeds, table_of_seeds

        if self.seed is not None or self.dry_run or len(set(self.seeds)) < len(self.seeds):
            raise UserError("With --seeds, each once, leave out --seed and --dry-run.")
        configs = {}
        for seed in self.seeds:
            asked = configure(start, seed, list(self.set), self._flags(), tuple(EXPERIMENTS))
            configs[seed] = as_recorded(out / f"seed{seed}", anywhere(asked))
        with self.execution.in_force(out, device=configs[self.seeds[0]].device):
            result = run_seeds(configs, out, overwrite=self.overwrite)
        counts = f"{result.made} stages made, {result.reused} reused."
        files = [out / SEEDS, *(out / name for name in result.folders)]
        return Outcome(f"{table_of_seeds(result)}\n{counts}\n", result, files)

    def _text(self, config: RunConfig, run: RunFolder) -> str:
        """Run what the preset means and return its figures."""
        if config.preset == "cs2881":
            from emscope.experiments.homework.measure import run_homework

            return run_homework(config, run)
        if config.preset in WITH_EXPERIMENTS:
            from emscope.experiments.conduct import run_full

            return _figures(run_full(config, run))
        from emscope.experiments.main.measure import run_quickstart

        return _figures(run_quickstart(config, run))

    def _flags(self) -> dict[str, Any]:
        """Return the settings that have flags of their own; None where one is not given."""
        names = ("model", "base", "misaligned_data", "control_data", "device", "dtype")
        return {name: getattr(self, name) for name in names} | {
            "accept_terms": self.accept_terms or None,
            **self.judging.changes(),
        }

    def _replayed(self) -> Path | None:
        """Return the config.yaml to replay, None without one."""
        if self.config is None:
            return None
        if self.preset is not None:
            raise UserError(f"{self.config} says what to run: leave out --preset, or leave out the file.")
        if not self.config.is_dir():
            return self.config
        if not (self.config / "config.yaml").is_file():
            raise UserError(f"The folder {self.config} has no config.yaml: a new run there is made with --out.")
        return self.config / "config.yaml"


def _figures(lab: Lab) -> str:
    """Return the figures of a finished run as lines of text."""
    from emscope.experiments.main.page import table
    from emscope.experiments.main.result import read_main
    from emscope.experiments.main.summary import judged_answers

    return table(read_main(lab.folder.folder), judged_answers(lab), lab.contrast, lab.config.seed)


def _summary(path: Path) -> Any:
    return read_json(path) if path.is_file() else None


COMMAND = Run
