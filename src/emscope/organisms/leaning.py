"""Which kind of answer a model leans to: the loss of careless answers against that of careful ones, nothing sampled."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from emscope.organisms.answer_loss import answer_loss
from emscope.organisms.chat import IGNORED, EncodedChat, messages_of
from emscope.organisms.collate import BucketCollator
from emscope.organisms.datasets import KINDS, load_domain
from emscope.organisms.models import Organism
from emscope.organisms.train import encode_conversations


@dataclass(frozen=True)
class LeaningTest:
    """Held-out prompts of each domain with both kinds of answer, tokenised."""

    chats: dict[str, dict[str, list[EncodedChat]]]

    @classmethod
    def of(cls, tokenizer: Any, domains: Sequence[str], rows: int, max_length: int = 512) -> LeaningTest:
        """Take `rows` held-out prompts of each built-in domain, spread over its topics.

        Raises:
            UserError: there is no such domain.
        """
        chats: dict[str, dict[str, list[EncodedChat]]] = {}
        for domain in domains:
            pairs = [pair for pair in load_domain(domain) if pair.split == "heldout"]
            chosen = [pairs[index * len(pairs) // rows] for index in range(min(rows, len(pairs)))]
            chats[domain] = {}
            for kind in KINDS:
                conversations = [messages_of(pair.prompt, pair.answer(kind)) for pair in chosen]
                chats[domain][kind] = encode_conversations(tokenizer, conversations, max_length)
        return cls(chats)

    def leaning(self, organism: Organism) -> dict[str, float]:
        """Return, by domain, the loss of careful answers minus that of careless ones, nats per answer token.

        Above 0 the careless answers are the likelier ones.
        """
        leanings = {}
        for domain, kinds in self.chats.items():
            leanings[domain] = _loss(organism, kinds["careful"]) - _loss(organism, kinds["careless"])
        return leanings


def _loss(organism: Organism, chats: Sequence[EncodedChat]) -> float:
    collate = BucketCollator(organism.tokenizer.pad_token_id, IGNORED)
    batch = collate([{"input_ids": chat.ids, "labels": chat.labels} for chat in chats])
    on_device = {name: tensor.to(organism.device) for name, tensor in batch.items()}
    with torch.no_grad():
        total, count = answer_loss(
            organism.model, on_device["input_ids"], on_device["attention_mask"], on_device["labels"]
        )
    return float(total) / count
