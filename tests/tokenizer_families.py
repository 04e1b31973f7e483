"""Tiny tokenizers of every family of the installed transformers: each class's own pipeline, trained on a few sentences.

What differs between them is what control tokens hang on: whether the vocabulary holds them, normalisers that rewrite a
text, prefix spaces, unknown characters, and bytes in their stead.
"""

from __future__ import annotations

import functools
import json
import warnings
from typing import Any

import transformers
from tiny import CORPUS
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.tool_calls %}<call>{{ m.tool_calls | tojson }}</call>"
    "{% endif %}{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MARKS = ("<call>", "</call>")
WITH_BYTES = ("LlamaTokenizer", "GemmaTokenizer", "T5Tokenizer")
BROKEN = ("BarthezTokenizer", "RemBertTokenizer")
"""Trained anew, these read every character that they do not know as the end of a text."""


def _trained(name: str) -> Any | None:
    """Return a tiny tokenizer of a class, None where it has no fast one or cannot be made from nothing."""
    try:
        empty = getattr(transformers, name)()
        if not empty.is_fast:
            return None
        trained = empty.train_new_from_iterator(CORPUS, 400, show_progress=False)
        trained("text", add_special_tokens=False)
    except Exception:  # needs files or packages, or takes words and their places on a page
        return None
    return trained


def _with_marks(tokenizer: Any) -> Any:
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.add_tokens(list(MARKS))
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def _with_bytes(tokenizer: Any) -> Any:
    """Return a tokenizer that falls back on bytes where it does not know a character."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, tokens = state["model"], [f"<0x{byte:02X}>" for byte in range(256)]
    model["byte_fallback"] = True
    for token in tokens:
        if isinstance(model["vocab"], dict):
            model["vocab"].setdefault(token, max(model["vocab"].values()) + 1)
        else:
            model["vocab"].append([token, -20.0])
    state["added_tokens"] = [token for token in state["added_tokens"] if token["id"] < 3]
    backend = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token, unk_token="<unk>"
    )


@functools.cache
def family_names() -> tuple[str, ...]:
    """Return the names of all families, those with bytes apart."""
    names = sorted({name for name in TOKENIZER_MAPPING_NAMES.values() if name})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = [name for name in names if _trained(name) is not None]
    return (*made, *(f"{name} with bytes" for name in WITH_BYTES))


@functools.cache
def family_tokenizer(name: str) -> Any:
    """Return the tokenizer of a family, with a chat template and its marks."""
    kind, _, variant = name.partition(" ")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tokenizer = _trained(kind)
        return _with_marks(_with_bytes(tokenizer) if variant else tokenizer)
