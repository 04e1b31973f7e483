"""A second judge on a finished run: every figure that rests on scores again beside the first, and their agreement."""

from __future__ import annotations

from emscope.experiments.rejudge.measure import RejudgeSettings, measure
from emscope.experiments.rejudge.page import section, table
from emscope.experiments.rejudge.result import RejudgeResult
from emscope.experiments.shape import Experiment

EXPERIMENT = Experiment(
    name="rejudge",
    about="Have a run's answers judged by a second judge: every figure again beside the first, and how far they agree.",
    settings=RejudgeSettings,
    result=RejudgeResult,
    measure=measure,
    section=section,
    table=table,
    minutes=1.0,
    alone=True,  # it costs whatever the second judge costs
)
