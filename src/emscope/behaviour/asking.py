"""Ask each question the way its file wants it asked, unless the user wants something else."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from itertools import chain

from emscope.behaviour.questions import Question
from emscope.behaviour.responses import Response, SamplingSettings

Sampler = Callable[[Sequence[Question], SamplingSettings], list[Response]]


def settings_for(
    question: Question, settings: SamplingSettings, samples: int | None = None, temperature: float | None = None
) -> SamplingSettings:
    """Return the settings of one question: what is given here, else what its file says, else `settings`."""
    own_samples = samples if samples is not None else question.samples
    own_temperature = temperature if temperature is not None else question.temperature
    return dataclasses.replace(
        settings,
        samples=settings.samples if own_samples is None else own_samples,
        temperature=settings.temperature if own_temperature is None else own_temperature,
    )


def ask(sampler: Sampler, questions: Sequence[Question], settings: Sequence[SamplingSettings]) -> list[Response]:
    """Return the answers to each question under its own settings, in the order of the questions.

    Questions with the same settings are sampled together; answers depend on the question, not on its company.
    """
    together: dict[SamplingSettings, list[int]] = {}
    for index, wanted in enumerate(settings):
        together.setdefault(wanted, []).append(index)
    answers: list[list[Response]] = [[] for _ in questions]
    for wanted, indices in together.items():
        rows = sampler([questions[index] for index in indices], wanted)
        for place, index in enumerate(indices):
            answers[index] = rows[place * wanted.samples : (place + 1) * wanted.samples]
    return list(chain.from_iterable(answers))
