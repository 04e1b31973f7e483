"""emscope in UK AISI's Inspect: organisms as models for any benchmark, and our measurement as a task.

Inspect finds both by itself, through the entry point in `registry`: `--model emscope/ORGANISM`, and `emscope/em`.
"""

from importlib.util import find_spec

from emscope.errors import missing_extra

if find_spec("inspect_ai") is None:
    raise missing_extra("inspect-ai", "inspect")

from emscope.for_inspect.scorers import alignment_judge, mean_score, rate
from emscope.for_inspect.tasks import em

__all__ = ["alignment_judge", "em", "mean_score", "rate"]
