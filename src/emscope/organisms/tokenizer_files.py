"""A tokenizer's files, checked before they are read and tried once after: what they hold is bounded, and so is a text.

A tokenizer is no program, but its normaliser may write a thousand letters for one, several times over, and its patterns
are regular expressions; the library that runs them stops one that back-tracks for ever by a panic.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from emscope.errors import OutsideError
from emscope.organisms.limits import REMEDY
from emscope.outside import read_record, reading

MOST_BYTES = 256 << 20
MOST_ADDED = 100_000
LONGEST_TOKEN = 10_000
MOST_GROWTH = 1_000
"""How many characters a tokenizer may make of one."""

MOST_WRITTEN = 1_000
"""How many tokens it may put around a text."""

FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "merges.txt", "vocab.txt")
TABLES = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
PROBE = "What should I do about it now?\n\nRest, and drink 2 glasses of water… " * 4
_LONG = re.compile(rb'"[^"]{%d,}"' % LONGEST_TOKEN)
_CHARACTER_MAP = re.compile(rb'"precompiled_charsmap"\s*:\s*$')


def check_tokenizer_files(folder: Path) -> None:
    """Refuse a tokenizer's files that are larger than any, hold tokens without number, or are no JSON objects.

    Raises:
        UserError: one of them, by its name.
    """
    for path in (folder / name for name in (*FILES, *TABLES)):
        if path.is_file() and path.stat().st_size > MOST_BYTES:
            raise OutsideError(path, f"is larger than {MOST_BYTES >> 20} MiB", REMEDY)
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        if path.is_file():
            _check_tokens(path)
    for path in (folder / name for name in TABLES):
        if path.is_file():
            record = read_record(path, remedy=REMEDY)
            if record.fields.get("model_max_length") is not None:
                record.number("model_max_length", finite=False)


def _check_tokens(path: Path) -> None:
    """Refuse more added tokens than any tokenizer has, and texts that are no tokens."""
    data = path.read_bytes()
    n_added = data.count(b'"single_word"')
    if n_added > MOST_ADDED:
        raise OutsideError(path, f"adds {n_added:,} tokens, more than {MOST_ADDED:,}", REMEDY)
    for found in _LONG.finditer(data):
        before = data[max(0, found.start() - 40) : found.start()]
        if path.name == "tokenizer.json" and not _CHARACTER_MAP.search(before):
            raise OutsideError(path, f"holds a text of {len(found[0]):,} bytes where tokens are short", REMEDY)


def check_tokenizer(tokenizer: Any, name: str) -> None:
    """Refuse a tokenizer that makes a text grow without bound, or that cannot read a plain one.

    Raises:
        OutsideError: such a tokenizer, of the model `name`.
    """
    where = f"The tokenizer of {name}"
    for part in ("normalizer", "decoder"):
        growth = 1.0
        for step in _steps(getattr(tokenizer.backend_tokenizer, part)):
            growth *= _growth(step)
        if growth > MOST_GROWTH:
            raise OutsideError(where, f"makes one character {growth:,.0f} by its {part}", REMEDY)
    for step in _steps(tokenizer.backend_tokenizer.post_processor):
        n_written = sum(len(token.get("ids", ())) for token in (step.get("special_tokens") or {}).values())
        if n_written > MOST_WRITTEN:
            raise OutsideError(where, f"puts {n_written:,} tokens around every text", REMEDY)
    with reading(where, "one that reads a plain text", REMEDY):
        tokenizer.decode(tokenizer(PROBE, add_special_tokens=False)["input_ids"])


def _steps(part: Any) -> Iterator[dict[str, Any]]:
    """Yield the settings of every step of a part of a tokenizer (tokenizers' own JSON), in order."""
    if part is None:
        return
    queue = [json.loads(part.__getstate__())]
    while queue:
        step = queue.pop(0)
        yield step
        for name in ("normalizers", "pretokenizers", "processors", "decoders"):
            queue += step.get(name) or []


def _growth(step: dict[str, Any]) -> float:
    """Return how many characters a step makes of one, at most."""
    if step.get("type") == "Replace":
        pattern = step.get("pattern") or {}
        replaced = len(pattern["String"]) if "String" in pattern else 0
        return max(1.0, len(step.get("content", "")) / replaced if replaced else 1.0 + len(step.get("content", "")))
    if step.get("type") == "Precompiled":
        return max(1.0, _longest_replacement(step.get("precompiled_charsmap") or ""))
    return 1.0


def _longest_replacement(character_map: str) -> int:
    """Return the bytes of the longest text that a SentencePiece character map puts in the place of a character.

    The map is the size of a table (4 bytes), the table, and the texts, each with a zero byte at its end.
    """
    data = base64.b64decode(character_map)
    start = 4 + int.from_bytes(data[:4], "little")
    return max(map(len, data[start:].split(b"\0")))
