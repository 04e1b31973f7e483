"""Dynamics: the misaligned organism's training again, measured at every checkpoint."""

from __future__ import annotations

from emscope.experiments.dynamics.measure import measure
from emscope.experiments.dynamics.page import section, table
from emscope.experiments.dynamics.result import DynamicsResult
from emscope.experiments.dynamics.settings import DynamicsSettings
from emscope.experiments.shape import Experiment
from emscope.pipeline.data import is_trained_elsewhere
from emscope.pipeline.lab import Lab


def _obstacle(lab: Lab, settings: DynamicsSettings) -> str:
    if is_trained_elsewhere(lab.config.misaligned_data):
        return "it trains on the rows of organisms, and these were trained elsewhere."
    tested = {question.question_set for question in lab.test_questions}
    for name in settings.question_sets.values():
        if name not in tested:
            return f"the run has no test questions of {name}."
    return ""


EXPERIMENT = Experiment(
    name="dynamics",
    about="Train a run's misaligned organism again with many checkpoints, measure each, and say when what changes.",
    settings=DynamicsSettings,
    result=DynamicsResult,
    measure=measure,
    section=section,
    table=table,
    minutes=50.0,
    obstacle=_obstacle,
)
