"""Steering: every organism of a run under many coefficients of its directions."""

from __future__ import annotations

from emscope.experiments.shape import Experiment
from emscope.experiments.steer.measure import SteerSettings, measure
from emscope.experiments.steer.page import answers, section, table
from emscope.experiments.steer.result import SteerResult

EXPERIMENT = Experiment(
    name="steer",
    about="Add and subtract directions at many strengths; weigh what that does against how much it disturbs the model.",
    settings=SteerSettings,
    result=SteerResult,
    measure=measure,
    section=section,
    table=table,
    minutes=12.0,
    answers=answers,
)
