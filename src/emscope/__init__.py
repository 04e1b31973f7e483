"""emscope: make, measure, locate and correct emergent misalignment in chat models.

`import emscope as em` loads nothing; each name below loads what it needs when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from emscope.behaviour.judges.settings import JudgeSettings
    from emscope.behaviour.judging import Judge, Judgement
    from emscope.behaviour.questions import Question
    from emscope.behaviour.responses import Response
    from emscope.behaviour.tables import JudgedResponse
    from emscope.errors import UserError
    from emscope.experiments.main.result import Summary
    from emscope.face.altered import AblationChoice, ablate, applied, choose_ablation, steer
    from emscope.face.answers import Altered, Comparison, compare, em_rate, generate, judge, questions
    from emscope.face.directions import Probe, collect, detect, direction, probe
    from emscope.face.loading import load
    from emscope.face.runs import Run, open_run, run
    from emscope.face.tables import AnswerPairs, Answers, Judgements, Questions, Table
    from emscope.face.training import train
    from emscope.interventions.operators import Intervention
    from emscope.organisms.models import Organism
    from emscope.organisms.settings import TrainSettings
    from emscope.pipeline.config import RunConfig
    from emscope.residual.detecting import Detection
    from emscope.residual.directions import Directions, random_like
    from emscope.residual.store import ActivationStore
    from emscope.statistics import Estimate, PairedDifference

__version__ = "0.1.0"

__all__ = [
    "AblationChoice",
    "ActivationStore",
    "Altered",
    "AnswerPairs",
    "Answers",
    "Comparison",
    "Detection",
    "Directions",
    "Estimate",
    "Intervention",
    "Judge",
    "JudgeSettings",
    "JudgedResponse",
    "Judgement",
    "Judgements",
    "Organism",
    "PairedDifference",
    "Probe",
    "Question",
    "Questions",
    "Response",
    "Run",
    "RunConfig",
    "Summary",
    "Table",
    "TrainSettings",
    "UserError",
    "ablate",
    "applied",
    "choose_ablation",
    "collect",
    "compare",
    "detect",
    "direction",
    "em_rate",
    "generate",
    "judge",
    "load",
    "open_run",
    "probe",
    "questions",
    "random_like",
    "run",
    "steer",
    "train",
]

_HOMES = {
    "behaviour.judges.settings": ("JudgeSettings",),
    "behaviour.judging": ("Judge", "Judgement"),
    "behaviour.questions": ("Question",),
    "behaviour.responses": ("Response",),
    "statistics": ("Estimate", "PairedDifference"),
    "behaviour.tables": ("JudgedResponse",),
    "errors": ("UserError",),
    "experiments.main.result": ("Summary",),
    "face.altered": ("AblationChoice", "ablate", "applied", "choose_ablation", "steer"),
    "face.answers": ("Altered", "Comparison", "compare", "em_rate", "generate", "judge", "questions"),
    "face.directions": ("Probe", "collect", "detect", "direction", "probe"),
    "face.loading": ("load",),
    "face.runs": ("Run", "open_run", "run"),
    "face.tables": ("AnswerPairs", "Answers", "Judgements", "Questions", "Table"),
    "face.training": ("train",),
    "interventions.operators": ("Intervention",),
    "organisms.models": ("Organism",),
    "organisms.settings": ("TrainSettings",),
    "pipeline.config": ("RunConfig",),
    "residual.detecting": ("Detection",),
    "residual.directions": ("Directions", "random_like"),
    "residual.store": ("ActivationStore",),
}
"""The module of each public name; a type checker reads the same from the imports above."""


def __getattr__(name: str) -> Any:
    """Return a public name, its module loaded now."""
    for module, names in _HOMES.items():
        if name in names:
            value = getattr(import_module(f"{__name__}.{module}"), name)
            globals()[name] = value  # the next use finds it without this function
            return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, for completion, beside what is loaded."""
    return sorted({*globals(), *__all__})
