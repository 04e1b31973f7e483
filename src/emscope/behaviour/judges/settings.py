"""Which judge scores answers and how it is asked, and what a judge is made from: the words of a run's config.yaml."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from emscope.behaviour.judges.rubrics import Rubrics, load_rubrics
from emscope.behaviour.judges.server import NO_KEY, ServerSettings
from emscope.behaviour.judges.store import ScoreStore
from emscope.behaviour.judging import Judgement
from emscope.errors import UserError

if TYPE_CHECKING:
    from emscope.organisms.models import Organism

EMBEDDED = "embedded"
OFFLINE = (EMBEDDED, "hf", "mock")
ADDRESS_VARIABLE = "OPENAI_BASE_URL"


@dataclass(frozen=True)
class JudgeSettings:
    """Which judge, and how it is asked.

    Attributes:
        name: embedded (offline), embedded:HEAD (the same with a head of your own), openai:MODEL (any OpenAI-compatible
            server), inspect:PROVIDER/MODEL (any provider of Inspect), hf:MODEL (a local model) or mock.
        base_url: the server's address up to /v1; empty means OpenAI's.
        api_key_env: the environment variable that holds the server's key.
        concurrency: calls in flight.
        timeout: seconds before one try of a call counts as lost.
        attempts: tries of one call before its answer is left unscored.
        logprobs: read scores from the first token's probabilities where the server gives them; otherwise from replies.
        rubrics: a YAML file with rubrics of your own, or the papers' judge_prompts; empty means ours.
    """

    name: str = EMBEDDED
    base_url: str = ""
    api_key_env: str = "OPENAI_API_KEY"
    concurrency: int = 16
    timeout: float = 60.0
    attempts: int = 8
    logprobs: bool = True
    rubrics: str = ""

    def __post_init__(self) -> None:
        """Refuse an address that is none or that this judge does not ask, and numbers that make no sense."""
        self._asked_with(NO_KEY)
        if self.base_url and self.kind in OFFLINE:
            raise UserError(f"The judge {self.name} asks no server: leave out the base URL, or name openai:MODEL.")

    @property
    def kind(self) -> str:
        """What stands before the colon of its name."""
        return self.name.partition(":")[0]

    @property
    def model(self) -> str:
        """What stands after the colon of its name, '' for nothing."""
        return self.name.partition(":")[2]

    @property
    def embedded(self) -> bool:
        """Whether a head on the embedded model judges: the one that comes with emscope, or a calibrated one."""
        return self.kind == EMBEDDED

    @property
    def head(self) -> Path | None:
        """The file of the head that is named, None for the one that comes with emscope."""
        return Path(self.model).expanduser() if self.embedded and self.model else None

    @property
    def asks_a_language_model(self) -> bool:
        """Whether each answer is put to a language model, once a rubric."""
        return self.kind not in (EMBEDDED, "mock")

    def server(self) -> ServerSettings:
        """Return how the server is asked, with the key from the environment.

        Raises:
            UserError: OpenAI itself is asked without a key.
        """
        asked = self._asked_with(os.environ.get(self.api_key_env, ""))
        if asked.api_key == NO_KEY and asked.base_url is None:
            raise UserError(
                f"OpenAI needs a key: set {self.api_key_env} in the environment, or name the base URL of a server of "
                "your own."
            )
        return asked

    def _asked_with(self, key: str) -> ServerSettings:
        return ServerSettings(
            self.base_url or None, key, self.concurrency, self.timeout, self.attempts, logprobs=self.logprobs
        )


def address_in_environment(name: str) -> str:
    """Return the address that the environment names for a judge behind a server, '' for none and for other judges."""
    return os.environ.get(ADDRESS_VARIABLE, "") if name.startswith("openai:") else ""


@dataclass(frozen=True)
class JudgeRequest:
    """All that a judge can be made from.

    Attributes:
        settings: which judge, and how it is asked.
        store: the file that keeps scores, so that none is asked for twice.
        load: loads a local model by its name.
        max_calls: stop asking after so many calls; None asks for all.
        own_rubrics: rubrics in the place of those that the settings name.
        own_server: a server in the place of the one that the settings name.
    """

    settings: JudgeSettings
    store: Path
    load: Callable[[str], Organism]
    max_calls: int | None = None
    own_rubrics: Rubrics | None = None
    own_server: ServerSettings | None = None

    @property
    def model(self) -> str:
        """What stands after the colon of the judge's name."""
        return self.settings.model

    @cached_property
    def rubrics(self) -> Rubrics:
        """The rubrics that a language model is given."""
        named = Path(self.settings.rubrics) if self.settings.rubrics else None
        return self.own_rubrics or load_rubrics(named)

    def server(self) -> ServerSettings:
        """Return the server to ask, with its key."""
        return self.own_server or self.settings.server()

    def scores(self) -> ScoreStore:
        """Open the store of scores."""
        return ScoreStore(self.store)


class NamedJudge(ABC):
    """A judge that can be chosen by its name: what every class in the table of judges offers."""

    @classmethod
    @abstractmethod
    def from_request(cls, request: JudgeRequest) -> NamedJudge:
        """Return the judge, ready to use; its model is loaded here.

        Raises:
            UserError: it cannot be had.
        """

    @classmethod
    def fingerprint(cls, request: JudgeRequest) -> str:
        """Return what its scores depend on, without loading a model: another text means judging again."""
        return f"{request.settings.name}:{request.rubrics.hash}"

    @classmethod
    def check(cls, request: JudgeRequest) -> None:
        """Try whatever can fail before long work that needs the judge begins.

        Raises:
            UserError: the judge would fail later.
        """
        _ = request.rubrics

    @property
    @abstractmethod
    def id(self) -> str:
        """Name and version of the judge and its rubrics, stored with every score."""

    @abstractmethod
    def judge(self, questions: Sequence[str], answers: Sequence[str]) -> list[Judgement]:
        """Return one judgement for each answer, in order."""
