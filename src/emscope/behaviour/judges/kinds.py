"""Every kind of judge: the one table of them, and how one is made from its name."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.server import ServerSettings
from emscope.behaviour.judges.settings import JudgeRequest, JudgeSettings, NamedJudge
from emscope.errors import UserError, did_you_mean
from emscope.organisms.embedded import cache_folder

if TYPE_CHECKING:
    from emscope.organisms.device import Placement
    from emscope.organisms.models import Organism


@dataclass(frozen=True)
class JudgeKind:
    """One row of the table of judges.

    Attributes:
        module: where its class is.
        class_name: its class, a `NamedJudge`.
        takes: what stands after the colon of its name, '' where nothing does.
        alone: whether its name may also stand without it.
    """

    module: str
    class_name: str
    takes: str = ""
    alone: bool = False

    def forms(self, name: str) -> list[str]:
        """Return how the judge is named."""
        return [name] * (self.alone or not self.takes) + [f"{name}:{self.takes}"] * bool(self.takes)

    def load(self) -> type[NamedJudge]:
        """Return its class."""
        found: type[NamedJudge] = getattr(importlib.import_module(self.module), self.class_name)
        return found


JUDGES = {
    "embedded": JudgeKind("emscope.behaviour.embedded.judge", "EmbeddedJudge", takes="HEAD", alone=True),
    "openai": JudgeKind("emscope.behaviour.judges.openai_judge", "OpenAIJudge", takes="MODEL"),
    "inspect": JudgeKind("emscope.behaviour.judges.inspect_judge", "InspectJudge", takes="PROVIDER/MODEL"),
    "hf": JudgeKind("emscope.behaviour.judges.hf_judge", "HFJudge", takes="MODEL"),
    "mock": JudgeKind("emscope.behaviour.judges.mock_judge", "MockJudge"),
}
"""By what stands before the colon of a judge's name; each class is loaded when it is first chosen."""


def judge_class(name: str) -> type[NamedJudge]:
    """Return the class of the judge of this name.

    Raises:
        UserError: there is none of this name.
    """
    kind, colon, model = name.partition(":")
    row = JUDGES.get(kind)
    fits = row is not None and (bool(row.takes) == bool(model) or (row.alone and not colon))
    if row is None or not fits:
        forms = list(chain.from_iterable(entry.forms(known) for known, entry in JUDGES.items()))
        near = "" if row is not None else did_you_mean(kind, JUDGES)
        raise UserError(f"There is no judge {name!r}: use {', '.join(forms[:-1])} or {forms[-1]}.{near}")
    return row.load()


def default_store() -> Path:
    """Return where scores are kept that belong to no run."""
    return cache_folder() / "scores.sqlite"


def choose_judge(
    judge: str | JudgeSettings,
    *,
    rubrics: Rubrics | None = None,
    store: Path | None = None,
    server: ServerSettings | None = None,
    max_calls: int | None = None,
    placement: Placement | None = None,
) -> NamedJudge:
    """Return the judge that a name or settings mean, ready to use; models are loaded here.

    Args:
        judge: its name, or how it is asked as well.
        rubrics: rubrics in the place of those that the settings name.
        store: where scores are kept; by default in emscope's cache.
        server: the server to ask, in the place of the one that the settings name.
        max_calls: stop asking after so many calls.
        placement: device and dtype of a local model; None chooses.

    Raises:
        UserError: no such kind of judge, or its model cannot be loaded.
    """
    settings = JudgeSettings(judge) if isinstance(judge, str) else judge
    kind = judge_class(settings.name)

    def load_model(name: str) -> Organism:
        from emscope.organisms.models import load

        return load(name, placement=placement)

    request = JudgeRequest(settings, store or default_store(), load_model, max_calls, rubrics, server)
    return kind.from_request(request)
