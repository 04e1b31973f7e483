"""Adapters: LoRA adapters told apart by their weights alone."""

from __future__ import annotations

from emscope.experiments.adapters.measure import AdaptersSettings, measure
from emscope.experiments.adapters.page import section, table
from emscope.experiments.adapters.result import AdaptersResult
from emscope.experiments.shape import Experiment
from emscope.pipeline.data import kind_of
from emscope.pipeline.lab import Lab


def _obstacle(lab: Lab, settings: AdaptersSettings) -> str:
    if any(kind_of(name) == "model" for name in (lab.config.misaligned_data, lab.config.control_data) if name):
        return "it reads adapters, and a whole model has none."
    return "" if lab.config.control_data else "it compares with a control organism, and there is none."


EXPERIMENT = Experiment(
    name="adapters",
    about="Make what is missing of the bank, and test classifiers on domains and recipes left out.",
    settings=AdaptersSettings,
    result=AdaptersResult,
    measure=measure,
    section=section,
    table=table,
    minutes=20.0,
    obstacle=_obstacle,
)
