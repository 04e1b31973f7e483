"""Ways to damage: bytes, texts and JSON values, by a seeded generator."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

NUMBERS = (
    0,
    1,
    -1,
    2,
    3,
    7,
    0.5,
    1e308,
    float("inf"),
    float("-inf"),
    float("nan"),
    10**6,
    10**9,
    10**12,
    2**63,
    10**30,
)
TEXTS = (
    "",
    " ",
    "4",
    "x",
    "../x",
    "/etc/passwd",
    "\0",
    "\x1b[2J",
    "\u202e",
    "\ud800",
    "a" * 5000,
    "NaN",
    "null",
    "<script>",
    "=1+1",
    "😀",
    "\r\n",
    "(a+)+$",
    "2026-11-28",
    "{{ x }}",
)
VALUES: tuple[Any, ...] = (
    *NUMBERS,
    *TEXTS,
    None,
    True,
    False,
    [],
    {},
    [[]],
    [1],
    ["x"],
    ["x", "x"],
    {"x": 1},
    {"": 1},
    {"\ud800": 1},
    [None],
    [True],
    [0.5],
    [-1],
    [{}],
    {"x": None},
)
LENGTHS_4 = (0, 1, 8, 9, 13, 2**31 - 1, 2**31, 2**32 - 1)
LENGTHS_8 = (0, 1, 2**31, 2**40, 2**60, 2**63, 2**64 - 1)


def damaged_bytes(rng: random.Random, data: bytes) -> bytes:
    """Return bytes with a few changes: bits, cuts, insertions, lengths that lie, pieces repeated or moved."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 40))):
        _damage(rng, changed)
    return bytes(changed)


def _damage(rng: random.Random, data: bytearray) -> None:
    kinds: Sequence[Callable[[random.Random, bytearray, int], None]] = (
        _flip,
        _flip,
        _cut,
        _insert,
        _delete,
        _lie_4,
        _lie_8,
        _repeat,
        _splice,
    )
    rng.choice(kinds)(rng, data, rng.randrange(len(data) + 1))


def _flip(rng: random.Random, data: bytearray, place: int) -> None:
    if data:
        data[place % len(data)] ^= 1 << rng.randrange(8)


def _cut(rng: random.Random, data: bytearray, place: int) -> None:
    del data[place:]


def _insert(rng: random.Random, data: bytearray, place: int) -> None:
    data[place:place] = rng.randbytes(rng.choice((1, 4, 100)))


def _delete(rng: random.Random, data: bytearray, place: int) -> None:
    del data[place : place + rng.choice((1, 8, 100))]


def _lie_4(rng: random.Random, data: bytearray, place: int) -> None:
    data[place : place + 4] = struct.pack("<I", rng.choice(LENGTHS_4))


def _lie_8(rng: random.Random, data: bytearray, place: int) -> None:
    data[place : place + 8] = struct.pack("<Q", rng.choice(LENGTHS_8))


def _repeat(rng: random.Random, data: bytearray, place: int) -> None:
    data[place:place] = data[place : place + rng.choice((8, 64, 4096))] * rng.choice((1, 2, 20))


def _splice(rng: random.Random, data: bytearray, place: int) -> None:
    start = rng.randrange(len(data) + 1)
    data[place:place] = data[start : start + rng.choice((4, 32, 256))]


def damaged_value(rng: random.Random, value: Any) -> Any:
    """Return a JSON value with one to four of its parts replaced, dropped, renamed, repeated or nested."""
    changed = copy.deepcopy(value)
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        places = _places(changed)
        if not places or rng.random() < 0.01:
            return rng.choice(VALUES)
        _change(rng, *rng.choice(places))
    return changed


def _change(rng: random.Random, owner: Any, key: Any) -> None:
    kind = rng.randrange(9)
    if kind <= 3:
        owner[key] = copy.deepcopy(rng.choice(VALUES))
    elif kind == 4:
        del owner[key]
    elif kind == 5:
        owner[key] = [owner[key]] * rng.choice((1, 2, 200))
    elif kind == 6 and isinstance(owner, dict):
        owner[rng.choice(TEXTS)] = owner.pop(key)
    elif kind == 7 and isinstance(owner, list):
        owner.insert(rng.randrange(len(owner) + 1), copy.deepcopy(owner[key]))
    else:
        owner[key] = nested(rng, owner[key])


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (owner, key) inside a JSON value."""
    places, queue = [], [value]
    while queue:
        owner = queue.pop()
        keys = list(owner) if isinstance(owner, dict) else range(len(owner)) if isinstance(owner, list) else ()
        for key in keys:
            places.append((owner, key))
            queue.append(owner[key])
    return places


def nested(rng: random.Random, value: Any) -> Any:
    """Return a value inside up to 90 lists and objects."""
    for _ in range(rng.choice((1, 3, 90))):
        value = {"x": value} if rng.random() < 0.5 else [value]
    return value


def json_text(rng: random.Random, value: Any) -> str:
    """Return JSON, at times with what no writer writes: 2,000 levels, 6,000 digits, names that stand twice."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5)
    trick = rng.randrange(20)
    mark = rng.choice(("null", "1", '"', "{", "}", ",", "]"))
    if trick == 0:
        return text.replace(mark, "[" * 2000 + "]" * 2000, 1)
    if trick == 1:
        return text.replace("1", "9" * 6000, 1)
    if trick == 2:
        return text.replace("{", '{"x": 1, "x": 2, ', 1)
    return text


def write(path: Path, text: str | bytes) -> Path:
    """Write a text with halves of characters and all, or bytes, and return the path."""
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", errors="surrogatepass"))
    return path


def damage_json_file(rng: random.Random, path: Path) -> None:
    """Damage a JSON file: mostly its values, sometimes its bytes."""
    data = path.read_bytes()
    if rng.random() < 0.2:
        path.write_bytes(damaged_bytes(rng, data))
    else:
        write(path, json_text(rng, damaged_value(rng, json.loads(data))))


def damage_tensor_file(rng: random.Random, path: Path) -> None:
    """Damage a safetensors file: its bytes, or its header as JSON with the length that belongs to it, or does not."""
    data = path.read_bytes()
    if rng.random() < 0.3:
        path.write_bytes(damaged_bytes(rng, data))
        return
    length = int(struct.unpack_from("<Q", data)[0])
    header = _damaged_header(rng, json.loads(data[8 : 8 + length]))
    text = json.dumps(header).encode("utf-8", errors="surrogatepass")
    size = rng.choice((len(text), len(text), len(text), len(text), 2**60, len(text) + 1))
    path.write_bytes(struct.pack("<Q", size) + text + data[8 + length :])


DTYPES = ("BF16", "F8_E4M3", "F8_E8M0", "F4", "I64", "U8", "BOOL", "C64", "F16", "F64")


def _damaged_header(rng: random.Random, header: dict[str, Any]) -> Any:
    """Return a header with other types or parts; our own metadata, JSON within it, are damaged as what they hold."""
    metadata = header.get("__metadata__", {})
    kind = rng.random()
    if kind < 0.6 and "emscope" in metadata:
        ours = damaged_value(rng, json.loads(metadata["emscope"]))
        return {**header, "__metadata__": {"emscope": json_text(rng, ours)}}
    if kind < 0.8:
        name = rng.choice([name for name in header if name != "__metadata__"])
        return {**header, name: {**header[name], "dtype": rng.choice(DTYPES)}}
    return damaged_value(rng, header)
