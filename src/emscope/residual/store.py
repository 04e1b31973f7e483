"""Activations on disk, read back by organism, question and block."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np

from emscope.errors import OutsideError, UserError, did_you_mean
from emscope.notebook import Facts, Shown
from emscope.organisms.blocks import Site
from emscope.outside import check_one_of
from emscope.residual.capture import Activations
from emscope.tensors import load_tensors, save_tensors


@dataclass(frozen=True)
class ActivationStore(Shown):
    """Pooled activations of one organism with the question of each row.

    Attributes:
        organism: whose they are.
        question_ids: the question of each row.
        activations: the vectors, by pooling.
        base: the organism's base model, '' where nobody said.
    """

    organism: str
    question_ids: tuple[str, ...]
    activations: Activations
    base: str = ""

    @property
    def width(self) -> int:
        """d_model."""
        return int(next(iter(self.activations.pooled.values())).shape[-1])

    def facts(self) -> Facts:
        """Return what is stored, without the numbers."""
        stored = self.activations
        return {
            "organism": self.organism,
            "rows": len(self.question_ids),
            "blocks": len(stored.blocks),
            "d_model": self.width,
            "poolings": tuple(stored.pooled),
            "site": stored.site,
        }

    def get(self, pooling: str, block: int | None = None, questions: Sequence[str] | None = None) -> np.ndarray:
        """Return [n_rows, n_blocks, d_model], or [n_rows, d_model] of one block, of some questions' rows or all.

        Raises:
            UserError: a pooling, block or question that is not in the store.
        """
        if pooling not in self.activations.pooled:
            raise UserError(f"No pooling {pooling!r} is stored.{did_you_mean(pooling, self.activations.pooled)}")
        array = self.activations.pooled[pooling]
        if questions is not None:
            missing = sorted(set(questions) - set(self.question_ids))
            if missing:
                raise UserError(f"The question {missing[0]!r} is not stored for {self.organism}.")
            wanted = set(questions)
            array = array[[row for row, question in enumerate(self.question_ids) if question in wanted]]
        if block is None:
            return array
        if block not in self.activations.blocks:
            raise UserError(f"Block {block} is not stored; stored are {list(self.activations.blocks)}.")
        return np.asarray(array[:, self.activations.blocks.index(block)])

    def by_question(self, pooling: str, questions: Sequence[str]) -> np.ndarray:
        """Return one row a question, in the order given, [n_questions, n_blocks, d_model].

        Several answers to a question are averaged: a question is one example, however often it was asked.

        Raises:
            UserError: a pooling or question that is not in the store.
        """
        array = self.get(pooling)
        rows: dict[str, list[int]] = {}
        for row, question in enumerate(self.question_ids):
            rows.setdefault(question, []).append(row)
        missing = [question for question in questions if question not in rows]
        if missing:
            raise UserError(f"The question {missing[0]!r} is not stored for {self.organism}.")
        return np.stack([array[rows[question]].mean(axis=0) for question in questions])

    def save(self, path: str | Path) -> None:
        """Write the store."""
        metadata = {
            "kind": "activations",
            "organism": self.organism,
            "question_ids": list(self.question_ids),
            "blocks": list(self.activations.blocks),
            "site": self.activations.site,
        }
        if self.base:  # stores made before have none
            metadata["base"] = self.base
        save_tensors(Path(path), self.activations.pooled, metadata)

    @classmethod
    def load(cls, path: str | Path) -> ActivationStore:
        """Read a store.

        Raises:
            UserError: the file is missing, damaged or not a store.
        """
        stored = load_tensors(Path(path), "activations")
        blocks, questions = stored.blocks(), stored.metadata.texts("question_ids")
        stored.sizes["rows"] = len(questions)
        if not stored.arrays:
            raise OutsideError(path, "holds no activations", "make it again")
        pooled = {name: stored.array(name, "rows", "blocks", "d_model") for name in stored.arrays}
        site: Site = check_one_of(stored.metadata, "site", get_args(Site))  # type: ignore[assignment]
        base = stored.metadata.text("base", "")
        return cls(stored.metadata.text("organism"), tuple(questions), Activations(pooled, blocks, site), base)


@dataclass(frozen=True)
class OrganismActivations:
    """What one organism thinks at the last token of each prompt, and on average over each of its own answers."""

    prompts: ActivationStore
    answers: ActivationStore

    def of(self, pooling: str, questions: Sequence[str]) -> np.ndarray:
        """Return one row a question, in the order given, float32 [n_questions, n_blocks, d_model]."""
        return (self.prompts if pooling == "last" else self.answers).by_question(pooling, questions)

    def has(self, question: str) -> bool:
        """Say whether the question has an answer."""
        return question in set(self.answers.question_ids)


def answered(activations: Mapping[str, OrganismActivations], questions: Sequence[str]) -> list[str]:
    """Return the questions that every organism has answered."""
    return [question for question in questions if all(part.has(question) for part in activations.values())]
