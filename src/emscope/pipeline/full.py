"""Everything: the main job, then every experiment on its organisms, each resumable and usable alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from emscope.pipeline.config import RunConfig
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
    """Run the quick start and all experiments, quick ones first; the report grows with each."""
    settings = settings or FullSettings()
    lab = run_quickstart(config, run)
    run_sweep(lab, settings.sweep)
    run_monitor(lab, settings.monitor)
    run_steer(lab, settings.steer)
    run_induce(lab, settings.induce)
    run_features(lab, settings.features)
    run_transfer(lab, settings.transfer)
    run_dynamics(lab, settings.dynamics)
    run_adapters(lab, settings.adapters)
    return lab
