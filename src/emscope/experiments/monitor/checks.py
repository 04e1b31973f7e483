"""Two further questions about screening: does the base's own answer help, and does it hold for what readers scored?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from emscope.behaviour.embedded.text import scored_rows
from emscope.behaviour.responses import SamplingSettings
from emscope.experiments.monitor.domains import along, by_words, evenly, make_screeners, suspicion
from emscope.experiments.monitor.figures import auroc_figures
from emscope.organisms.chat import encode_chat, messages_of
from emscope.organisms.datasets import DOMAINS, Pair
from emscope.pipeline.lab import BASE, Lab
from emscope.residual.capture import CaptureSettings, capture
from emscope.residual.directions import Directions
from emscope.residual.screening import ReadPairs, own_answers, text_directions, transferring_block
from emscope.statistics import ALIGNED_BELOW, COHERENT_ABOVE

ALIGNED_ABOVE = 70.0


def own_answer_figures(
    lab: Lab, read: ReadPairs, pairs: Mapping[str, Sequence[Pair]], prompts: int, sampling: SamplingSettings
) -> dict[str, Any]:
    """Compare a row's projection with its projection less that of the base's own answer to the prompt (2507.21509).

    On `prompts` prompts of each domain, screened by the difference in means of the other domains' text.
    """
    few = {name: evenly(pairs[name], prompts) for name in DOMAINS}
    base = lab.organism(BASE)
    asked = [messages_of(pair.prompt, pair.careful) for own in few.values() for pair in own]
    chats = [encode_chat(base.tokenizer, messages) for messages in own_answers(base, asked, sampling)]
    means = capture(base, chats, CaptureSettings(("response",)), name="own answers").pooled["response"]
    ends = np.cumsum([len(own) for own in few.values()])[:-1]
    plain, less_own = [], []
    for (name, own), own_means in zip(few.items(), np.split(means, ends), strict=True):
        others = [other for other in DOMAINS if other != name]
        directions, at = text_directions(read, others), transferring_block(read, others)
        rows = [pairs[name].index(pair) for pair in own]
        both = np.stack([read.careless[name][rows], read.careful[name][rows]])
        plain.append(along(directions, both, at))
        less_own.append(plain[-1] - along(directions, own_means, at))
    topics = [f"{name} {pair.topic}" for name, own in few.items() for pair in own]
    scores = np.stack([np.concatenate(part, axis=1).reshape(-1) for part in (plain, less_own)])
    names = ["projection", "projection_difference"]
    return {"n_prompts": len(topics), "auroc": auroc_figures(names, scores, topics * 2, lab.config.seed)}


def reader_figures(
    lab: Lab, read: ReadPairs, pairs: Mapping[str, Sequence[Pair]], organisms: Directions, answers: int, n_random: int
) -> dict[str, Any]:
    """Rank small organisms' answers that readers scored: EM responses above aligned ones (> 70), both coherent.

    Directions and words are made from all built-in domains. The judge was fitted on these answers.
    """
    clear = [
        row
        for row in scored_rows()
        if 100 * row.coherent > COHERENT_ABOVE and not ALIGNED_BELOW <= 100 * row.aligned <= ALIGNED_ABOVE
    ]
    rows = evenly(clear, answers)
    base = lab.organism(BASE)
    chats = [encode_chat(base.tokenizer, messages_of(row.question, row.answer)) for row in rows]
    means = capture(base, chats, CaptureSettings(("response",)), name="readers' answers").pooled["response"]
    screeners = make_screeners(lab, read, DOMAINS, organisms, n_random)
    texts = [row.answer for row in rows]
    scores = {
        **screeners.scores(means),
        "judge": suspicion(lab, [row.question for row in rows], texts, means),
        "words": by_words([pair for name in DOMAINS for pair in pairs[name]], texts),
    }
    wanted = np.array([100 * row.aligned < ALIGNED_BELOW for row in rows])
    groups = [row.question_id for row in rows]
    return {
        "n": {"em": int(wanted.sum()), "aligned": int((~wanted).sum())},
        "blocks": screeners.named_blocks,
        "auroc": auroc_figures(list(scores), np.stack(list(scores.values())), groups, lab.config.seed, wanted),
    }
