"""Where features are active: their strongest tokens, in context."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.sparse import csc_matrix

from emscope.residual.features.tokens import TokenActivations

BEFORE, AFTER = 10, 5


@dataclass(frozen=True)
class Example:
    """A token at which a feature is active, with the text around it.

    Attributes:
        source: where the text is from.
        before: the text before the token.
        token: the token.
        after: the text after it.
        code: how active the feature is, in units of the residual stream.
    """

    source: str
    before: str
    token: str
    after: str
    code: float


@dataclass(frozen=True)
class Reader:
    """Turns places in the captured tokens into text.

    Attributes:
        tokenizer: the organisms' tokenizer.
        tokens: the captured tokens, in the order of the rows of the codes.
        sources: who read each token, names [n_tokens].
    """

    tokenizer: Any
    tokens: TokenActivations
    sources: np.ndarray

    def strongest(self, codes: csc_matrix, feature: int, n: int) -> list[Example]:
        """Return the strongest examples of a feature, at most one from each text."""
        examples: list[Example] = []
        seen: set[str] = set()
        for row, code in _ordered(codes, feature):
            example = self._example(row, code)
            text = example.before + example.token
            if text not in seen:
                seen.add(text)
                examples.append(example)
            if len(examples) == n:
                break
        return examples

    def words(self, codes: csc_matrix, feature: int, n: int = 4, among: int = 40) -> list[str]:
        """Return the commonest tokens among the places where a feature is strongest."""
        counts: Counter[str] = Counter()
        for row, _ in _ordered(codes, feature)[:among]:
            counts[self._text(np.array([row]))] += 1
        return [token for token, _ in counts.most_common(n)]

    def _example(self, row: int, code: float) -> Example:
        chat = self.tokens.chat
        first, last = np.searchsorted(chat, chat[row], "left"), np.searchsorted(chat, chat[row], "right")
        before = self._text(np.arange(max(first, row - BEFORE), row))
        after = self._text(np.arange(row + 1, min(last, row + 1 + AFTER)))
        return Example(str(self.sources[row]), before, self._text(np.array([row])), after, code)

    def _text(self, rows: np.ndarray) -> str:
        return str(self.tokenizer.decode(self.tokens.ids[rows].tolist()))


def _ordered(codes: csc_matrix, feature: int) -> list[tuple[int, float]]:
    start, end = codes.indptr[feature], codes.indptr[feature + 1]
    rows, values = codes.indices[start:end], codes.data[start:end]
    order = np.argsort(-values, kind="stable")
    return list(zip(rows[order].tolist(), values[order].tolist(), strict=True))
