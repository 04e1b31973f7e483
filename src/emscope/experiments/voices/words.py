"""The voice of a text by its words alone: a small classifier of blunt and warm answers, fitted on training answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from emscope.experiments.voices.organisms import Quartet, config_of
from emscope.experiments.voices.result import ReadVoices
from emscope.organisms.datasets import CORNERS
from emscope.organisms.messages import Message
from emscope.pipeline.lab import Lab

BLUNT = "blunt"


@dataclass(frozen=True)
class VoiceReader:
    """A classifier of words.

    Attributes:
        fitted: gives the chance that a text is blunt.
        figures: how well it does on held-out answers.
    """

    fitted: Pipeline
    figures: ReadVoices

    @classmethod
    def fit(cls, train: Sequence[tuple[str, str]], heldout: Sequence[tuple[str, str]]) -> VoiceReader:
        """Fit on (text, voice) of training rows, and try it on held-out ones.

        Words and pairs of words count relative to the text's length, so that length alone tells little.
        """
        fitted = make_pipeline(TfidfVectorizer(use_idf=False, ngram_range=(1, 2)), LogisticRegression(C=10.0))
        texts, voices = zip(*train, strict=True)
        fitted.fit(texts, np.array(voices) == BLUNT)
        reader = cls(fitted, ReadVoices(float("nan"), 0))
        if not heldout:
            return reader
        texts, voices = zip(*heldout, strict=True)
        right = (reader.blunt(texts) > 0.5) == (np.array(voices) == BLUNT)
        return cls(fitted, ReadVoices(float(right.mean()), len(right)))

    def blunt(self, texts: Sequence[str]) -> np.ndarray:
        """Return the chance that each text is blunt, [n]."""
        column = list(self.fitted.classes_).index(True)
        return np.asarray(self.fitted.predict_proba(list(texts))[:, column])


def voice_reader(lab: Lab, quartets: Sequence[Quartet]) -> VoiceReader:
    """Fit a reader on the training rows of every domain, each once, and try it on the held-out ones."""
    train: list[tuple[str, str]] = []
    heldout: list[tuple[str, str]] = []
    for quartet in {quartet.domain: quartet for quartet in reversed(quartets)}.values():
        for corner, data in zip(CORNERS, quartet.data, strict=True):
            found = lab.training_data(data, config_of(lab.config, quartet, data))
            train += _told(found.train, corner)
            heldout += _told(found.heldout, corner)
    return VoiceReader.fit(train, heldout)


def _told(rows: Sequence[Sequence[Message]], corner: str) -> list[tuple[str, str]]:
    voice = corner.partition("-")[0]
    return [(str(messages[-1]["content"]), voice) for messages in rows]


def mean_words(texts: Sequence[str]) -> float:
    """Return the mean number of words of texts; NaN of none."""
    return float(np.mean([len(text.split()) for text in texts])) if texts else float("nan")
