"""Everything: the main job, then every experiment on its organisms, each resumable and usable alone."""

from __future__ import annotations

from emscope.pipeline.config import RunConfig
from emscope.pipeline.experiments.adapters import AdaptersSettings, run_adapters
from emscope.pipeline.experiments.dynamics import DynamicsSettings, run_dynamics
from emscope.pipeline.experiments.features import FeaturesSettings, run_features
from emscope.pipeline.experiments.monitor import MonitorSettings, run_monitor
from emscope.pipeline.experiments.steer import SteerSettings, run_steer
from emscope.pipeline.experiments.sweep import SweepSettings, run_sweep
from emscope.pipeline.experiments.transfer import TransferSettings, run_transfer
from emscope.pipeline.lab import Lab
from emscope.pipeline.quickstart import run_quickstart
from emscope.pipeline.stages import RunFolder


def run_full(config: RunConfig, run: RunFolder) -> Lab:
    """Run the quick start and all experiments, quick ones first; the report grows with each."""
    lab = run_quickstart(config, run)
    run_sweep(lab, SweepSettings())
    run_monitor(lab, MonitorSettings())
    run_steer(lab, SteerSettings())
    run_features(lab, FeaturesSettings())
    run_transfer(lab, TransferSettings())
    run_dynamics(lab, DynamicsSettings())
    run_adapters(lab, AdaptersSettings())
    return lab
