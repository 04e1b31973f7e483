"""Flags that several commands share."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import emscope
from emscope import parts, processes
from emscope.behaviour.questions import Question, load_question_sets
from emscope.errors import UserError
from emscope.interventions.settings import AblationSettings

if TYPE_CHECKING:
    from emscope.behaviour.judges.settings import JudgeSettings
    from emscope.interventions.operators import AlongDirections


@dataclass(frozen=True)
class AblationFlags(AblationSettings):
    """An ablation, active while answers are sampled.

    Attributes:
        directions: a file made by `emscope directions`; none means no ablation.
    """

    directions: Path | None = None

    @property
    def alone(self) -> AblationSettings:
        """How directions are taken out, whatever they are."""
        return AblationSettings(**{field.name: getattr(self, field.name) for field in fields(AblationSettings)})

    def intervention(self) -> AlongDirections | None:
        """Return the intervention, or None without directions.

        Raises:
            UserError: an ablation is described and no directions are named, or they do not fit.
        """
        if self.directions is not None:
            return self.along(self.directions)
        odd = changed_flags(self, [field.name for field in fields(AblationSettings)])
        if odd:
            raise UserError(f"{odd} says how to ablate, but not what: name a file of directions with --directions.")
        return None


@dataclass(frozen=True)
class TableFlags:
    """How a table is written.

    Attributes:
        mark_formulas: in a .csv, put an apostrophe before cells that begin with = + - @ and are no numbers, so that
            spreadsheets show them and do not run them; emscope reads them without it.
    """

    mark_formulas: bool = True


@dataclass(frozen=True)
class JudgeFlags:
    """Who judges the answers.

    Attributes:
        judge: embedded (offline, the default), embedded:HEAD (the same with a head of your own), openai:MODEL (any
            OpenAI-compatible server), inspect:PROVIDER/MODEL (any provider of Inspect), hf:MODEL (a local model) or
            mock.
        base_url: the server's address up to /v1, for example http://127.0.0.1:8000/v1; none means the one in
            OPENAI_BASE_URL, else OpenAI's.
        api_key_env: the environment variable that holds the server's key.
        concurrency: calls in flight.
        rubrics: a YAML file with your rubrics, or the papers' judge_prompts; none means ours.
    """

    judge: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    concurrency: int | None = None
    rubrics: Path | None = None

    def changes(self) -> dict[str, str | int | None]:
        """Return the settings of a judge that were given, by their names in a run's configuration."""
        return {
            "judge.name": self.judge,
            "judge.base_url": self.base_url,
            "judge.api_key_env": self.api_key_env,
            "judge.concurrency": self.concurrency,
            "judge.rubrics": None if self.rubrics is None else str(self.rubrics),
        }

    def settings(self) -> JudgeSettings:
        """Return the judge that these flags mean by themselves."""
        from emscope.behaviour.judges.settings import EMBEDDED, JudgeSettings, address_in_environment

        name = EMBEDDED if self.judge is None else self.judge
        address = self.base_url or address_in_environment(name)
        rubrics = "" if self.rubrics is None else str(self.rubrics)
        given = JudgeSettings(name, address, rubrics=rubrics)
        key = given.api_key_env if self.api_key_env is None else self.api_key_env
        calls = given.concurrency if self.concurrency is None else self.concurrency
        return replace(given, api_key_env=key, concurrency=calls)


GOES_ON = "What was finished is kept: the same command goes on from there."
NOTHING_KEPT = "Nothing is kept part-way: the same command begins anew."
"""What is left after an interruption; every command says one of these, or its own, as `stopped`."""


def kept_with(out: Path | None) -> str:
    """Return what is left after an interruption of a command that may go without an output to keep parts beside."""
    return NOTHING_KEPT.replace(":", " without --out:") if out is None else GOES_ON


def kept_parts(out: Path | None, models: Sequence[str | None], *others: Any) -> AbstractContextManager[None]:
    """Keep the finished parts of work whose result is written to `out` beside it, until that is done.

    Args:
        out: the output, written inside the context; None keeps nothing.
        models: the models that the result depends on, by name.
        others: what else it depends on that is not in the parts' own inputs.
    """
    if out is None or processes.count() > 1:  # several processes would have to find the same parts
        return nullcontext()
    from emscope.organisms.fingerprint import fingerprint
    from emscope.organisms.lineage import circumstances
    from emscope.organisms.templates import chat_date

    read = [fingerprint(model) for model in models if model]
    return parts.kept_beside(out, [emscope.__version__, circumstances(), chat_date().isoformat(), read, others])


def read_questions(names: Sequence[str]) -> list[Question]:
    """Load question sets by name or file.

    Raises:
        UserError: no questions, or an id that two of the sets use.
    """
    questions = load_question_sets(names)
    if not questions:
        raise UserError("No questions: name a question set or a file with --questions.")
    return questions


def changed_flags(given: Any, names: Sequence[str]) -> str:
    """Return those of a dataclass's flags that are not at their defaults, in words: '--at and --mode'; '' for none.

    Where these would be ignored, the command refuses them.
    """
    changed = []
    for field in fields(given):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        if field.name in names and getattr(given, field.name) != default:
            changed.append(f"--{field.name.replace('_', '-')}")
    return " and ".join(changed)
