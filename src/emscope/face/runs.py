"""Runs in Python: do one, open one, and have its tables, directions, organisms and experiments by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emscope.behaviour.judges.settings import JudgeSettings
from emscope.behaviour.responses import Response
from emscope.behaviour.tables import read_table
from emscope.errors import UserError, did_you_mean
from emscope.experiments import EXPERIMENTS, experiment
from emscope.experiments.conduct import conduct, run_full
from emscope.experiments.main.measure import run_quickstart
from emscope.experiments.main.result import MainResult, Summary, read_main
from emscope.experiments.result import Result
from emscope.experiments.shape import open_run as open_lab
from emscope.experiments.shape import read_result, result_file
from emscope.face.tables import Answers, Judgements, Questions
from emscope.files import shown_files
from emscope.notebook import Facts, Shown
from emscope.organisms.models import Organism
from emscope.pipeline.config import PRESETS, WITH_EXPERIMENTS, RunConfig, anywhere, configure, load_config
from emscope.pipeline.lab import Lab
from emscope.pipeline.settings import changed, merged
from emscope.pipeline.stages import RunFolder, as_recorded, has_begun
from emscope.residual.directions import Directions
from emscope.residual.store import ActivationStore

if TYPE_CHECKING:
    import plotly.graph_objects as go


class Run(Shown):
    """A run: its figures, tables, directions and organisms, and every experiment as a method.

    `run.sweep()` returns what the run has of that experiment, and does it where it has none; `run.steer(blocks=(18,))`
    does it with these settings. What is up to date is read and not made again.
    """

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    @property
    def folder(self) -> Path:
        """Where the run is."""
        return self.lab.folder.folder

    @property
    def config(self) -> RunConfig:
        """What was run."""
        return self.lab.config

    @property
    def report(self) -> Path:
        """The run's page, to open in a browser."""
        return self.folder / "report.html"

    @property
    def summary(self) -> Summary:
        """The figures of the run, those of summary.json.

        Raises:
            UserError: the run is not finished, or its files are damaged.
        """
        return self.result.summary

    @property
    def result(self) -> MainResult:
        """Everything the main job found: the summary, detection along every direction, and the ablation.

        Raises:
            UserError: the run is not finished, or its files are damaged.
        """
        return read_main(self.folder)

    @property
    def organisms(self) -> tuple[str, ...]:
        """The names of the run's organisms, base first."""
        return self.lab.names

    @property
    def questions(self) -> Questions:
        """The questions that every organism was asked."""
        return Questions(self.lab.questions)

    @property
    def test_questions(self) -> Questions:
        """The questions that figures are reported on: no direction, threshold or ablation was chosen on them."""
        return Questions(self.lab.test_questions)

    def organism(self, name: str = "misaligned") -> Organism:
        """Return an organism of the run, loaded.

        Raises:
            UserError: the run has none of that name.
        """
        _check(name, self.organisms, f"{self.folder} has no organism")
        return self.lab.organism(name)

    def answers(self, name: str = "misaligned") -> Answers:
        """Return an organism's answers.

        Raises:
            UserError: the run has none of that name.
        """
        _check(name, self._stems("responses", ".parquet"), f"{self.folder} has no answers")
        return Answers(read_table(self.lab.responses_file(name), Response), name)

    def judgements(self, name: str = "misaligned") -> Judgements:
        """Return judged answers: of an organism, of the ablation, or of an experiment that keeps some.

        Raises:
            UserError: the run has none of that name.
        """
        _check(name, self._stems("judgements", ".parquet"), f"{self.folder} has no judgements")
        return Judgements.read(self.lab.judgements_file(name))

    def direction(self, name: str = "") -> Directions:
        """Return a direction of the run by its name, contrast-pooling-method; without one, the one that corrects.

        The run's own contrast and the difference in means may be left out: `response`, `last-probe`.

        Raises:
            UserError: the run has none of that name.
        """
        if not name:
            return self.lab.direction()
        for whole in (name, f"{self.lab.contrast}-{name}", f"{self.lab.contrast}-{name}-diff-in-means"):
            if whole in self.directions:
                return self.lab.direction(whole)
        raise UserError(f"{self.folder} has no direction {name!r}.{did_you_mean(name, self.directions)}")

    @property
    def directions(self) -> tuple[str, ...]:
        """The names of the run's directions."""
        return self._stems("directions", ".safetensors")

    def activations(self, name: str = "misaligned", kind: str = "prompts") -> ActivationStore:
        """Return an organism's stored activations: of prompts at their last token, or of its own answers (`answers`).

        Raises:
            UserError: the run has none of that name.
        """
        _check(f"{name}-{kind}", self._stems("activations", ".safetensors"), f"{self.folder} has no activations")
        return ActivationStore.load(self.folder / "activations" / f"{name}-{kind}.safetensors")

    def results(self) -> dict[str, Result]:
        """Return the results of the experiments that the run has done, by name."""
        found: dict[str, Result] = {}
        for name in EXPERIMENTS:
            if result_file(self.folder, name).is_file():
                found[name] = read_result(self.folder, experiment(name))
        return found

    def experiment(self, name: str, **settings: Any) -> Any:
        """Return the result of an experiment: as the run has it, or done now where it has none or settings are given.

        Raises:
            UserError: there is none of this name, a setting that it does not have, or a run that does not allow it.
        """
        chosen = experiment(name)
        if not settings and result_file(self.folder, name).is_file():
            return read_result(self.folder, chosen)
        return conduct(self.lab, chosen, changed(chosen.settings(), settings, name))

    def figures(self, name: str) -> dict[str, go.Figure]:
        """Return the plots of an experiment that the run has done, by title, as plotly figures."""
        return experiment(name).section(self.experiment(name)).figures

    def __getattr__(self, name: str) -> Callable[..., Any]:
        """Return the method of an experiment, such as `sweep`.

        Raises:
            AttributeError: there is no experiment of this name.
        """
        if name.startswith("_") or name not in EXPERIMENTS:
            raise AttributeError(f"A run has no {name!r}.{did_you_mean(name, [*EXPERIMENTS, *vars(type(self))])}")
        return partial(self.experiment, name)

    def __dir__(self) -> list[str]:
        """Return the names, those of the experiments too, for completion."""
        return sorted({*super().__dir__(), *EXPERIMENTS})

    def facts(self) -> Facts:
        """Return where the run is, what it is of, and its experiments."""
        done = tuple(name for name in EXPERIMENTS if result_file(self.folder, name).is_file())
        config = self.config
        return {
            "folder": str(self.folder),
            "model": config.model,
            "misaligned_data": config.misaligned_data,
            "organisms": self.organisms,
            "experiments": ", ".join(done) or "none",
        }

    def _stems(self, folder: str, suffix: str) -> tuple[str, ...]:
        """Return the names of the files of one kind in a folder of the run."""
        return tuple(path.stem for path in shown_files(self.folder / folder, f"*{suffix}"))


def _check(name: str, known: Iterable[str], what: str) -> None:
    """Refuse a name that is not there, with the near ones."""
    names = list(known)
    if name not in names:
        raise UserError(f"{what} {name!r}.{did_you_mean(name, names)}")


def open_run(folder: str | Path) -> Run:
    """Return a finished run.

    Raises:
        UserError: there is no finished run in the folder.
    """
    return Run(open_lab(Path(folder)))


def run(
    config: str | Path | RunConfig = "quickstart",
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    seed: int | None = None,
    **settings: Any,
) -> Run:
    """Do a whole run (make, measure, locate, detect, correct) and return it; what is up to date is reused.

    Args:
        config: a preset (quickstart, full, factorial), a configuration, or the config.yaml or the folder of a run to
            replay.
        out: the run's folder; None is runs/PRESET, or the folder that is replayed.
        overwrite: replace a run of another configuration in the same folder.
        seed: one seed for training, sampling and statistics.
        **settings: settings by name, such as `model="smollm2-135m", rows=96, train={"epochs": 3}`.

    Raises:
        UserError: an unknown preset or setting, or a folder that holds another run.
    """
    start, folder = _start(config)
    wanted = configure(start, seed, [], _settings(start, settings))
    place = Path(out) if out is not None else folder or Path("runs", wanted.preset)
    wanted = as_recorded(place, anywhere(wanted))
    if wanted.preset == "cs2881":
        raise UserError("The preset cs2881 writes the homework's own files: do it with the command `emscope run`.")
    opened = RunFolder(place, wanted, overwrite=overwrite or not has_begun(place))
    lab = run_full(wanted, opened) if wanted.preset in WITH_EXPERIMENTS else run_quickstart(wanted, opened)
    return Run(lab)


def _start(config: str | Path | RunConfig) -> tuple[str | RunConfig, Path | None]:
    """Return what to begin with, a preset's name or a configuration, and the folder of a run that is replayed."""
    if isinstance(config, RunConfig):
        return config, None
    if str(config) in PRESETS:
        return str(config), None
    path = Path(config)
    file = path / "config.yaml" if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"There is no preset, file or run {str(config)!r}.{did_you_mean(str(config), PRESETS)}")
    return load_config(file), file.parent if file.name == "config.yaml" else None


def _settings(start: str | RunConfig, settings: Mapping[str, object]) -> dict[str, object]:
    """Return the settings that are given, nested ones filled up with what the start has."""
    values = dataclasses.asdict(PRESETS[start] if isinstance(start, str) else start)
    if isinstance(settings.get("judge"), str):
        settings = {**settings, "judge": JudgeSettings(str(settings["judge"]))}
    experiments = settings.get("experiments")  # by names that the run itself does not have
    plain = {name: value for name, value in settings.items() if name != "experiments"}
    whole = merged(values, plain, "the run")
    chosen = {name: whole[name] for name in plain}
    return chosen if experiments is None else {**chosen, "experiments": experiments}
