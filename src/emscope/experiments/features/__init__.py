"""Features: a run's direction taken apart in the features of a sparse autoencoder."""

from __future__ import annotations

from typing import Any

from emscope.experiments.features.measure import FeaturesSettings, measure
from emscope.experiments.features.page import section, table
from emscope.experiments.shape import Experiment

EXPERIMENT = Experiment(
    name="features",
    about="Train or load a sparse autoencoder at one block and take the run's direction apart: one feature or many?",
    settings=FeaturesSettings,
    result=dict[str, Any],
    measure=measure,
    section=section,
    table=table,
    minutes=2.6,
)
