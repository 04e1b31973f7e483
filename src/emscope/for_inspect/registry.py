"""What Inspect loads to learn our names; torch is imported when a model is made, not here."""

from __future__ import annotations

from inspect_ai.model import ModelAPI, modelapi

from emscope.for_inspect.scorers import alignment_judge, mean_score, rate
from emscope.for_inspect.tasks import em

__all__ = ["alignment_judge", "em", "emscope", "mean_score", "rate"]


@modelapi(name="emscope")
def emscope() -> type[ModelAPI]:
    """Return the provider behind `--model emscope/ORGANISM` and `emscope/ORGANISM+ablate:DIRECTIONS`."""
    from emscope.for_inspect.provider import OrganismAPI

    return OrganismAPI
