"""Does an experiment on a run, and the presets that do some or all of them after the main job."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from emscope import progress
from emscope.errors import UserError
from emscope.experiments import EXPERIMENTS, experiment
from emscope.experiments.main.measure import run_quickstart
from emscope.experiments.run_page import report_stage
from emscope.experiments.shape import Experiment, ResultT, SettingsT
from emscope.pipeline.config import RunConfig
from emscope.pipeline.lab import Lab
from emscope.pipeline.settings import changed
from emscope.pipeline.stages import RunFolder

logger = logging.getLogger(__name__)

SettingsByName = Mapping[str, Any]
"""Settings of experiments by their names, each of the experiment's own dataclass."""


def conduct(lab: Lab, chosen: Experiment[SettingsT, ResultT], settings: SettingsT) -> ResultT:
    """Do an experiment unless it is up to date, write the run's report again, and return the result.

    Raises:
        UserError: the run does not allow it, or a setting does not fit the run.
    """
    result = chosen.measure(lab, settings)
    report_stage(lab)
    return result


def run_full(config: RunConfig, run: RunFolder, settings: Mapping[str, Any] | None = None) -> Lab:
    """Do the main job and the experiments of the run's preset, quick ones first; the report grows with each.

    Experiments that the run's organisms do not allow are left out, and the log says why before anything begins.

    Args:
        config: the run.
        run: its folder.
        settings: settings of experiments by their names, before those of the configuration; those that are not named
            have their own.

    Raises:
        UserError: an experiment or a setting in the configuration that there is not.
    """
    asked = settings_of_all({**configured(config), **(settings or {})}, config.preset)
    run.keep_experiments()
    reasons = left_out(Lab(config, run), asked)
    for name, reason in reasons.items():
        logger.warning("%s is left out: %s", name, reason)

    lab = run_quickstart(config, run)

    wanted = [name for name in by_duration(config.preset) if name not in reasons]
    works: dict[str, float | None] = {}
    for name in wanted:  # as long as they take with their own settings; how long others take, nothing tells
        works[name] = experiment(name).minutes if settings is None and not config.experiments else None
    with progress.plan(works, "experiment"):
        for name in wanted:
            with progress.logged_step(name) as step:
                n_made, n_reused = len(run.made), len(run.reused)
                conduct(lab, experiment(name), asked[name])
                stages = {*run.made[n_made:], *run.reused[n_reused:]}
                step.seconds = sum(run.seconds[stage] for stage in stages)  # what was reused took its time too
    return lab


FACTORIAL = ("voices",)
"""The experiments of the preset factorial."""


def by_duration(preset: str = "full") -> list[str]:
    """Return the names of the experiments of a preset, quick ones first."""
    return sorted(parts_of(preset), key=lambda name: experiment(name).minutes)


def parts_of(preset: str) -> list[str]:
    """Return the names of the experiments that a preset does; any but factorial stands for everything."""
    return list(FACTORIAL) if preset == "factorial" else parts_of_everything()


def parts_of_everything() -> list[str]:
    """Return the names of the experiments that are parts of everything."""
    return [name for name in EXPERIMENTS if not experiment(name).alone]


def configured(config: RunConfig) -> SettingsByName:
    """Return the settings that a configuration has for experiments, by their names.

    Raises:
        UserError: an experiment or a setting that there is not or that the preset does not do, or a value that makes no
            sense.
    """
    settings = {}
    for name, changes in config.experiments.items():
        settings[name] = changed(own_settings(name, config.preset), changes, name)
        if config.preset == "factorial" and name not in FACTORIAL:
            raise UserError(f"The preset factorial does not do {name}: take the preset full, or do {name} afterwards.")
    return settings


def own_settings(name: str, preset: str) -> Any:
    """Return the settings that an experiment has in a preset: everything has some experiments smaller."""
    chosen = experiment(name)
    return chosen.settings() if preset == "factorial" else chosen.settings_in_full


def settings_of_all(settings: SettingsByName, preset: str = "full") -> SettingsByName:
    """Return the settings of every experiment of a preset by name: those given, and its own for the others."""
    asked = {}
    for name in parts_of(preset):
        asked[name] = settings[name] if name in settings else own_settings(name, preset)
    return asked


def left_out(lab: Lab, settings: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return the experiments of a run's preset that its organisms and questions do not allow, and why."""
    reasons = {}
    for name, asked in settings_of_all(settings or {}, lab.config.preset).items():
        reason = experiment(name).obstacle(lab, asked)
        if reason:
            reasons[name] = reason
    return reasons
