"""Transfer: directions of organisms of several domains and seeds, each tried on every other."""

from __future__ import annotations

from emscope.experiments.shape import Experiment
from emscope.experiments.transfer.measure import TransferSettings, measure
from emscope.experiments.transfer.page import section, table
from emscope.experiments.transfer.result import TransferResult
from emscope.pipeline.lab import Lab


def _obstacle(lab: Lab, settings: TransferSettings) -> str:
    return "" if lab.config.control_data else "it compares with a control organism, and there is none."


EXPERIMENT = Experiment(
    name="transfer",
    about="Train organisms on several domains, and try each one's direction on every other; what is done is reused.",
    settings=TransferSettings,
    result=TransferResult,
    measure=measure,
    section=section,
    table=table,
    minutes=20.0,
    obstacle=_obstacle,
)
