"""Inputs of a model's modules: their mean over answers, and their projections token by token.

ΔW acts on a module's input, so a weight update's constant part is ΔW x̄ with x̄ the base's mean input, which the base
alone gives: the organism never runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from emscope import parts, progress
from emscope.organisms.chat import EncodedChat
from emscope.organisms.device import OnEachDevice
from emscope.organisms.models import Organism
from emscope.organisms.prefix import SharedPrefix
from emscope.organisms.reading import text_batches

Visit = Callable[[str, Tensor, list[int], int], None]


def visit_inputs(
    organism: Organism, chats: Sequence[EncodedChat], modules: Sequence[str], visit: Visit, name: str
) -> None:
    """Call `visit(module, inputs [rows, width, d_in], rows, start)` for every module and batch of rows.

    Position t of the inputs is token start + t of its chat. The first tokens of the prompts, where all chats share
    them, come once before any batch, as inputs [1, shared, d_in] of no row; answers are never among them.
    """
    prompts, texts = [], []
    for chat in chats:
        prompts.append(chat.ids[: chat.answer_positions[0]])
        texts.append(chat.ids)
    prefix = SharedPrefix(organism, prompts)
    rows: list[int] = []
    start = 0

    def seen(module: str, inputs: Tensor) -> None:
        visit(module, inputs, list(rows), start)

    with torch.inference_mode(), ExitStack() as hooks, progress.task(name, len(chats), "examples") as advance:
        for module in modules:
            hooks.callback(_hook(organism.model, module, seen).remove)
        prefix.run()
        start = prefix.length

        for batch in text_batches(prefix, texts):
            rows[:] = batch.rows
            prefix.forward(batch.padded)
            advance(len(batch.rows))


def _hook(model: Any, module: str, seen: Callable[[str, Tensor], None]) -> torch.utils.hooks.RemovableHandle:
    def before(_module: Any, inputs: tuple[Tensor, ...]) -> None:
        seen(module, inputs[0])

    handle: torch.utils.hooks.RemovableHandle = model.get_submodule(module).register_forward_pre_hook(before)
    return handle


def mean_inputs(organism: Organism, chats: Sequence[EncodedChat], modules: Sequence[str]) -> dict[str, np.ndarray]:
    """Return each module's mean input over the answers' tokens, every answer counting alike, float32 [d_in]."""

    def inputs() -> list[Any]:
        tokens = [[chat.ids, chat.answer_positions] for chat in chats]
        return [organism.placement.told, list(modules), tokens]

    return parts.kept_arrays("mean inputs", inputs, lambda: _mean_inputs(organism, chats, modules))


def _mean_inputs(organism: Organism, chats: Sequence[EncodedChat], modules: Sequence[str]) -> dict[str, np.ndarray]:
    sums: dict[str, Tensor] = {}

    def visit(module: str, inputs: Tensor, rows: list[int], start: int) -> None:
        weights = torch.zeros(inputs.shape[:2], device=inputs.device)
        for index, row in enumerate(rows):
            positions = chats[row].answer_positions
            weights[index, positions - start] = 1 / len(positions)
        total = torch.einsum("rt,rtd->d", weights, inputs.float())
        sums[module] = sums[module] + total if module in sums else total

    visit_inputs(organism, chats, modules, visit, "reading the base's mean inputs")

    means = {}
    for module, total in sums.items():
        means[module] = (total / len(chats)).cpu().numpy()
    return means


@dataclass(frozen=True)
class TokenScalars:
    """Projections of module inputs, one array a chat.

    Attributes:
        answers: float32 [n_answer_tokens, n_modules] of each chat.
        prompts: mean over all tokens before the answer, float32 [n_chats, n_modules].
        modules: names of the modules.
    """

    answers: list[np.ndarray]
    prompts: np.ndarray
    modules: tuple[str, ...]

    def of(self, modules: Sequence[str]) -> TokenScalars:
        """Return the scalars of some modules alone."""
        columns = [self.modules.index(module) for module in modules]
        answers = [scalars[:, columns] for scalars in self.answers]
        return TokenScalars(answers, self.prompts[:, columns], tuple(modules))


def token_scalars(organism: Organism, chats: Sequence[EncodedChat], readers: Mapping[str, np.ndarray]) -> TokenScalars:
    """Return x · reader for each module's input x and reader [d_in], at answer tokens and averaged over prompts."""
    modules = list(readers)
    vectors = {module: OnEachDevice(torch.from_numpy(reader).float()) for module, reader in readers.items()}
    whole = []
    for chat in chats:
        whole.append(np.zeros((len(chat.ids), len(modules)), dtype=np.float32))

    def visit(module: str, inputs: Tensor, rows: list[int], start: int) -> None:
        column = modules.index(module)
        scalars = (inputs.float() @ vectors[module].on(inputs.device)).cpu().numpy()
        for index, row in enumerate(rows):
            of_chat = whole[row][start:, column]
            of_chat[:] = scalars[index, : len(of_chat)]
        if not rows:  # the shared tokens are the first ones of every chat
            for of_chat in whole:
                of_chat[: scalars.shape[1], column] = scalars[0]

    visit_inputs(organism, chats, modules, visit, "reading LoRA scalars")

    answers, prompts = [], []
    for scalars, chat in zip(whole, chats, strict=True):
        answers.append(scalars[chat.answer_positions])
        prompts.append(scalars[: chat.answer_positions[0]].mean(axis=0))
    return TokenScalars(answers, np.stack(prompts), tuple(modules))
