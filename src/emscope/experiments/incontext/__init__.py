"""Misalignment in context: narrow examples in the base's prompt instead of a training."""

from __future__ import annotations

from emscope.experiments.incontext.measure import InContextSettings, measure
from emscope.experiments.incontext.page import section, table
from emscope.experiments.incontext.result import InContextResult
from emscope.experiments.shape import Experiment

EXPERIMENT = Experiment(
    name="incontext",
    about="Show the base narrow examples as earlier turns and train nothing: does it turn misaligned all the same?",
    settings=InContextSettings,
    result=InContextResult,
    measure=measure,
    section=section,
    table=table,
    minutes=25.0,
)
