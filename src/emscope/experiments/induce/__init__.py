"""Induction: one vector trained on narrow rows and added to the base."""

from __future__ import annotations

from emscope.experiments.induce.measure import InduceSettings, measure
from emscope.experiments.induce.page import answers, section, table
from emscope.experiments.induce.result import InduceResult
from emscope.experiments.shape import Experiment
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import Lab


def _obstacle(lab: Lab, settings: InduceSettings) -> str:
    if any(is_trained_elsewhere(name) for name in (lab.config.misaligned_data, lab.config.control_data) if name):
        return "it trains on the rows of organisms, and these were trained elsewhere."
    return ""


EXPERIMENT = Experiment(
    name="induce",
    about="Train one vector on a run's careless rows and add it to the base: is one vector enough to misalign it?",
    settings=InduceSettings,
    result=InduceResult,
    measure=measure,
    section=section,
    table=table,
    minutes=10.0,
    answers=answers,
    obstacle=_obstacle,
)
