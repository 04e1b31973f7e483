"""A judge by its name: `embedded`, `openai:MODEL`, `hf:MODEL` or `mock`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from emscope.behaviour.judges.mock_judge import MockJudge
from emscope.behaviour.judges.openai_judge import OpenAIJudge, ServerSettings
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.behaviour.judging import Judge
from emscope.errors import UserError, did_you_mean
from emscope.organisms.embedded import EMBEDDED_ALIAS, cache_folder

if TYPE_CHECKING:
    from emscope.organisms.device import Placement

KINDS = ("embedded", "openai", "hf", "mock")


def default_store() -> Path:
    """Return where paid-for scores are kept, for all runs."""
    return cache_folder() / "scores.sqlite"


def choose_judge(
    name: str,
    *,
    rubrics: Rubrics | None = None,
    store: Path | None = None,
    server: ServerSettings | None = None,
    max_calls: int | None = None,
    placement: Placement | None = None,
) -> Judge:
    """Return the judge that a name means, ready to use; models are loaded here.

    Raises:
        UserError: no such kind of judge, or its model cannot be loaded.
    """
    kind, _, model = name.partition(":")
    if kind not in KINDS or (kind in ("openai", "hf")) != bool(model):
        raise UserError(
            f"There is no judge {name!r}: use embedded, openai:MODEL, hf:MODEL or mock.{did_you_mean(kind, KINDS)}"
        )
    if kind == "mock":
        return MockJudge()
    if kind == "openai":
        return OpenAIJudge(
            model, rubrics or Rubrics(), ScoreStore(store or default_store()), server or ServerSettings(), max_calls
        )
    from emscope.organisms.models import load

    if kind == "hf":
        from emscope.behaviour.judges.hf_judge import HFJudge

        subject = load(model, placement=placement)
        return HFJudge(subject, rubrics or Rubrics(), ScoreStore(store or default_store()), max_calls)
    from emscope.behaviour.embedded.judge import EmbeddedJudge

    return EmbeddedJudge(load(EMBEDDED_ALIAS, placement=placement))
