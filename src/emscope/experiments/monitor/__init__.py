"""Monitoring: the direction token by token over answers, and over training data."""

from __future__ import annotations

from emscope.experiments.monitor.measure import MonitorSettings, measure
from emscope.experiments.monitor.page import section, table
from emscope.experiments.monitor.result import MonitorResult
from emscope.experiments.shape import Experiment

EXPERIMENT = Experiment(
    name="monitor",
    about="Watch the misaligned organism answer token by token, and screen training data, with controls.",
    settings=MonitorSettings,
    result=MonitorResult,
    measure=measure,
    section=section,
    table=table,
    minutes=4.0,
)
