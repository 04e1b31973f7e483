"""Features: a run's direction taken apart in the features of a sparse autoencoder."""

from __future__ import annotations

from emscope.experiments.features.measure import FeaturesSettings, measure
from emscope.experiments.features.page import section, table
from emscope.experiments.features.result import FeaturesResult
from emscope.experiments.shape import Experiment

EXPERIMENT = Experiment(
    name="features",
    about="Train or load a sparse autoencoder at one block and take the run's direction apart: one feature or many?",
    settings=FeaturesSettings,
    result=FeaturesResult,
    measure=measure,
    section=section,
    table=table,
    minutes=2.6,
)
