"""Layer sweep: every block, contrast, pooling and method of a run's directions, scored on held-out questions."""

from __future__ import annotations

from emscope.experiments.shape import Experiment
from emscope.experiments.sweep.measure import SweepSettings, measure
from emscope.experiments.sweep.page import section, table
from emscope.experiments.sweep.result import SweepResult

EXPERIMENT = Experiment(
    name="sweep",
    about="Measure where misalignment can be read: every block, contrast, pooling and method, on held-out questions.",
    settings=SweepSettings,
    result=SweepResult,
    measure=measure,
    section=section,
    table=table,
    minutes=3.4,
    in_full=SweepSettings(ablate=True),  # it costs answers that a sweep alone need not have
)
