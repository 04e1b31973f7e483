"""Steering: every organism of a run turned along its directions by many coefficients."""

from __future__ import annotations

from typing import Any

from emscope.experiments.shape import Experiment
from emscope.experiments.steer.measure import SteerSettings, measure
from emscope.experiments.steer.page import section, table

EXPERIMENT = Experiment(
    name="steer",
    about="Add and subtract directions at many strengths; weigh what that does against how much it disturbs the model.",
    settings=SteerSettings,
    result=dict[str, Any],
    measure=measure,
    section=section,
    table=table,
    minutes=12.0,
)
