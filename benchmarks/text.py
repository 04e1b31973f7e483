"""What a bag of words makes of the built-in text, and a shuffled sheet to read blind.

python benchmarks/text.py              # AUROC for advice: words, and words with pairs of words; topics left out
python benchmarks/text.py --sheet 40   # so many answers of each corner, shuffled, without labels; then the key
"""

from __future__ import annotations

import argparse
import random

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from emscope.organisms.datasets import ADVICE, CORNERS, DOMAINS, VOICES, load_domain

FOLDS = 8
PAIRS = [pair for domain in DOMAINS for pair in load_domain(domain)]


def scores(voice: str, words: int) -> dict[str, float]:
    """Return the AUROC on each voice of a bag of words fitted on one, each topic scored by a fit without it."""
    labels = np.array([advice == "bad" for _ in PAIRS for advice in ADVICE])
    topics = [f"{pair.domain} {pair.topic}" for pair in PAIRS for _ in ADVICE]
    texts = {name: [pair.answer(f"{name}-{advice}") for pair in PAIRS for advice in ADVICE] for name in VOICES}

    found = {name: np.zeros(len(labels)) for name in VOICES}
    for train, test in GroupKFold(FOLDS).split(labels, labels, topics):
        bag = TfidfVectorizer(token_pattern=r"(?u)\b\w[\w']*\b", ngram_range=(1, words))
        model = LogisticRegression(C=10, max_iter=3000)
        model.fit(bag.fit_transform([texts[voice][row] for row in train]), labels[train])
        for name in VOICES:
            found[name][test] = model.decision_function(bag.transform([texts[name][row] for row in test]))
    return {name: float(roc_auc_score(labels, values)) for name, values in found.items()}


def sheet(each: int, seed: int) -> None:
    """Print answers without labels, then what they are."""
    chooser = random.Random(seed)
    chosen = [(corner, pair) for corner in CORNERS for pair in chooser.sample(PAIRS, each)]
    chooser.shuffle(chosen)
    for number, (corner, pair) in enumerate(chosen):
        print(f"{number} | {pair.prompt} => {pair.answer(corner)}")
    print("KEY", *(f"{number}:{corner}" for number, (corner, _) in enumerate(chosen)))


def main() -> None:
    """Print the table or the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sheet", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    if asked.sheet:
        sheet(asked.sheet, asked.seed)
        return
    for words, name in ((1, "words"), (2, "words and pairs of words")):
        for voice in VOICES:
            told = scores(voice, words)
            print(f"{name}, fitted on {voice}: " + ", ".join(f"{on} {value:.3f}" for on, value in told.items()))


if __name__ == "__main__":
    main()
