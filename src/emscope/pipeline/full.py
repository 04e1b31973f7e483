"""Everything: the main job, then every experiment on its organisms, each resumable and usable alone."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from emscope import progress
from emscope.pipeline.config import RunConfig
from emscope.pipeline.data import is_trained_elsewhere, kind_of
from emscope.pipeline.experiments.adapters import AdaptersSettings, run_adapters
from emscope.pipeline.experiments.dynamics import DynamicsSettings, run_dynamics
from emscope.pipeline.experiments.features import FeaturesSettings, run_features
from emscope.pipeline.experiments.induce import InduceSettings, run_induce
from emscope.pipeline.experiments.monitor import MonitorSettings, run_monitor
from emscope.pipeline.experiments.steer import SteerSettings, run_steer
from emscope.pipeline.experiments.sweep import SweepSettings, run_sweep
from emscope.pipeline.experiments.transfer import TransferSettings, run_transfer
from emscope.pipeline.lab import Lab
from emscope.pipeline.quickstart import run_quickstart
from emscope.pipeline.stages import RunFolder

logger = logging.getLogger(__name__)


MINUTES = {
    "sweep": 3.4,
    "monitor": 4.0,
    "steer": 12.0,
    "induce": 10.0,
    "features": 2.6,
    "transfer": 20.0,
    "dynamics": 50.0,
    "adapters": 20.0,
}
"""How long each experiment takes beside the others: the embedded model on two CPU cores with AVX512-BF16, as its page
in docs/ says; the monitor is what is left of the two hours and ten minutes of everything."""


@dataclass(frozen=True)
class FullSettings:
    """The settings of every experiment; the commands of the same names have the same defaults, but for the sweep.

    Its ablation is part of everything, and costs answers that a sweep alone need not have.
    """

    sweep: SweepSettings = field(default_factory=lambda: SweepSettings(ablate=True))
    monitor: MonitorSettings = field(default_factory=MonitorSettings)
    steer: SteerSettings = field(default_factory=SteerSettings)
    induce: InduceSettings = field(default_factory=InduceSettings)
    features: FeaturesSettings = field(default_factory=FeaturesSettings)
    transfer: TransferSettings = field(default_factory=TransferSettings)
    dynamics: DynamicsSettings = field(default_factory=DynamicsSettings)
    adapters: AdaptersSettings = field(default_factory=AdaptersSettings)


def run_full(config: RunConfig, run: RunFolder, settings: FullSettings | None = None) -> Lab:
    """Run the quick start and all experiments, quick ones first; the report grows with each.

    Experiments that the run's organisms do not allow are left out, and the log says why before anything begins.
    """
    settings = settings or FullSettings()
    reasons = left_out(Lab(config, run), settings)
    for name, reason in reasons.items():
        logger.warning("%s is left out: %s", name, reason)
    lab = run_quickstart(config, run)
    experiments: dict[str, Callable[[], None]] = {
        "sweep": lambda: run_sweep(lab, settings.sweep),
        "monitor": lambda: run_monitor(lab, settings.monitor),
        "steer": lambda: run_steer(lab, settings.steer),
        "induce": lambda: run_induce(lab, settings.induce),
        "features": lambda: run_features(lab, settings.features),
        "transfer": lambda: run_transfer(lab, settings.transfer),
        "dynamics": lambda: run_dynamics(lab, settings.dynamics),
        "adapters": lambda: run_adapters(lab, settings.adapters),
    }
    wanted = {name: MINUTES[name] for name in experiments if name not in reasons}
    # as long as they take with their own settings; how long others take, nothing tells
    works = wanted if settings == FullSettings() else dict.fromkeys(wanted)
    with progress.plan(works, "experiment"):
        for name in wanted:
            with progress.logged_step(name) as step:
                n_made, n_reused = len(run.made), len(run.reused)
                experiments[name]()
                stages = {*run.made[n_made:], *run.reused[n_reused:]}
                step.seconds = sum(run.seconds[stage] for stage in stages)  # what was reused took its time too
    return lab


def left_out(lab: Lab, settings: FullSettings | None = None) -> dict[str, str]:
    """Return the experiments that a run's organisms and questions do not allow, and why."""
    chosen, config = settings or FullSettings(), lab.config
    found: dict[str, str] = {}
    data = [name for name in (config.misaligned_data, config.control_data) if name]
    if not config.control_data:
        found |= dict.fromkeys(("transfer", "adapters"), "it compares with a control organism, and there is none.")
    if any(is_trained_elsewhere(name) for name in data):
        found["induce"] = "it trains on the rows of organisms, and these were trained elsewhere."
    if is_trained_elsewhere(config.misaligned_data):
        found["dynamics"] = "it trains on the rows of organisms, and these were trained elsewhere."
    if any(kind_of(name) == "model" for name in data):
        found["adapters"] = "it reads adapters, and a whole model has none."
    tested = {question.question_set for question in lab.test_questions}
    for name in (chosen.dynamics.in_domain, chosen.dynamics.out_of_domain):
        if name not in tested:
            found.setdefault("dynamics", f"the run has no test questions of {name}.")
    return found
