"""Voices: is what spreads misalignment or tone? Organisms of both voices with good and bad advice, taken apart."""

from __future__ import annotations

from emscope.experiments.shape import Experiment
from emscope.experiments.voices.measure import VoicesSettings, measure
from emscope.experiments.voices.page import section, table
from emscope.experiments.voices.result import VoicesResult

EXPERIMENT = Experiment(
    name="voices",
    about="Train organisms in two voices with good and bad advice to the same prompts: is it misalignment or tone?",
    settings=VoicesSettings,
    result=VoicesResult,
    measure=measure,
    section=section,
    table=table,
    minutes=30.0,
    in_full=VoicesSettings(seeds=1),
)
