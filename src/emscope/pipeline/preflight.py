"""Everything of a run that can fail on what the user gave is tried before anything is trained."""

from __future__ import annotations

import logging
from pathlib import Path

from emscope.behaviour.questions import Question
from emscope.errors import UserError
from emscope.organisms.architecture import n_positions, text_config
from emscope.organisms.chat import encode_prompt, messages_of
from emscope.organisms.models import ModelSource, resolve
from emscope.organisms.train import encode_conversations, refuse_adapter
from emscope.organisms.weights import load_config
from emscope.pipeline.anchoring import check_anchor
from emscope.pipeline.data import kind_of, says_of_control
from emscope.pipeline.lab import CONTROL, MISALIGNED, TEST_ONLY, Lab
from emscope.pipeline.training import given_adapter

logger = logging.getLogger(__name__)

LEAST_TRAIN, LEAST_TEST = 4, 2
"""Questions: a direction is made from four or more, and something must be left to report on."""


def check_run(lab: Lab) -> None:
    """Check device, base, both organisms' data, questions and judge, and say what the run goes without.

    Raises:
        UserError: whatever would stop the run later.
    """
    say_what_is_missing(lab)
    check_organisms(lab)
    check_split(lab)
    check_questions(lab, lab.questions)
    lab.check_judge()
    check_anchor(lab)


def say_what_is_missing(lab: Lab) -> None:
    """Warn of a run without a control, or with one that differs in more than the answers."""
    said = says_of_control(lab.config)
    if said:
        logger.warning("%s", said)


def check_organisms(lab: Lab) -> None:
    """Check the device, the base's tokenizer, and what each organism is made of.

    Raises:
        UserError: one of them cannot be had or does not fit.
    """
    _ = lab.placement
    refuse_adapter(lab.base_source)
    if _same_place(lab.config.misaligned_data, lab.config.control_data):
        raise UserError(
            f"Both organisms are made of {lab.config.control_data}, so there is nothing to tell apart: name other "
            "control data, or --control-data '' for none."
        )
    for name, data in ((MISALIGNED, lab.config.misaligned_data), (CONTROL, lab.config.control_data)):
        if data:
            check_data(lab, data, known=f"train-{name}" in lab.folder.record.stages)


def _same_place(one: str, other: str) -> bool:
    """Say whether two names of data are the same, or mean the same file or folder."""
    paths = [Path(name).expanduser() for name in (one, other)]
    return one == other or (bool(other) and all(path.exists() for path in paths) and paths[0].samefile(paths[1]))


def check_data(lab: Lab, data: str, *, known: bool = False) -> None:
    """Check what one organism is made of; `known` rows were trained on before, and are not tokenised for it.

    Raises:
        UserError: it cannot be had or does not fit.
    """
    kind = kind_of(data)
    if kind == "adapter":
        given_adapter(lab, data)
    elif kind == "model":
        _check_shape(lab, data)
    else:
        rows = lab.training_data(data)
        if kind == "file" and not known:
            for part in (rows.train, rows.heldout):
                encode_conversations(lab.tokenizer, part, lab.config.train.max_length)


def _check_shape(lab: Lab, data: str) -> None:
    """Refuse a whole model whose residual stream is not the base's: there is no direction between the two.

    Raises:
        UserError: it has other blocks, or another width.
    """
    own, base = (shape_of(source) for source in (resolve(data), lab.base_source))
    if own != base:
        raise UserError(
            f"{data} has {own[0]} blocks of width {own[1]}, the run's base {lab.config.model} {base[0]} of width "
            f"{base[1]}: name the model that it was fine-tuned from with --model."
        )


def shape_of(source: ModelSource) -> tuple[int | None, int | None]:
    """Return a model's number of blocks and width, as its configuration has them.

    Raises:
        UserError: it has none that can be read.
    """
    config = text_config(load_config(source))
    return getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None)


def check_split(lab: Lab) -> None:
    """Refuse questions that cannot be split into those to choose on and those to report on.

    Raises:
        UserError: too few of either.
    """
    n_train, n_test = len(lab.train_questions), len(lab.test_questions)
    if n_train < LEAST_TRAIN or n_test < LEAST_TEST:
        sets = ", ".join(lab.config.question_sets)
        raise UserError(
            f"Of the questions of {sets}, {n_train} are left to choose directions on and {n_test} to report on; a run "
            f"needs {LEAST_TRAIN} and {LEAST_TEST}. Every other question is chosen on, those of {TEST_ONLY[0]} never: "
            "add questions, or one of the built-in sets such as everyday-general."
        )


def check_questions(lab: Lab, questions: list[Question]) -> None:
    """Render every question with the base's template, and see that there is room for its answer.

    Raises:
        UserError: the template refuses one, or one is too long.
    """
    sampling = lab.config.sampling
    positions = n_positions(load_config(lab.base_source))
    for question in questions:
        n_tokens = len(encode_prompt(lab.tokenizer, messages_of(question.text, system=sampling.system)))
        if positions is not None and n_tokens + sampling.max_new_tokens > positions:
            raise UserError(
                f"The question {question.id!r} takes {n_tokens} tokens and its answer up to {sampling.max_new_tokens}, "
                f"but {lab.config.model} has {positions} positions: shorten the question, or "
                "sampling.max_new_tokens."
            )
