"""A GGUF file read before it is converted: is it a model, all of it, and does every one of its tensors get used?

transformers fills what a file lacks with random numbers and passes over what it does not know, both without a word that
a user would see. Here such a file is refused.
"""

from __future__ import annotations

import functools
import math
import mmap
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emscope.errors import OutsideError, UserError
from emscope.organisms.limits import check_size
from emscope.outside import Record, reading

if TYPE_CHECKING:
    from emscope.organisms.building import Held

ROPE_FACTORS = "rope_freqs.weight"
HEAD = "output.weight"
TEXT, LIST = 8, 9
WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
"""Bytes of a value by its kind (ggml's gguf.h)."""

MOST_ENTRIES = 4_000_000
REMEDY = "it was cut off or damaged, so fetch it again"
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")


@dataclass(frozen=True)
class GgufFile:
    """What a whole GGUF file holds.

    Attributes:
        path: where it is.
        values: the number of values of each tensor, by name.
        rope_factors: what the wavelengths of the rotary embedding are multiplied by, as Llama 3.1 and later do.
        rope_scaling: the kind of scaling that the file asks of the rotary embedding.
    """

    path: Path
    values: dict[str, int]
    rope_factors: tuple[float, ...] = ()
    rope_scaling: str = "none"

    @property
    def held(self) -> Held:
        """How much it holds."""
        from emscope.organisms.building import Held  # it loads torch, and this module is loaded to judge by a server

        return Held(len(self.values), sum(self.values.values()))


def refuse_part(path: Path) -> None:
    """Refuse a file whose name says that it is one of several parts.

    Raises:
        UserError: it is.
    """
    found = _PART.search(path.stem)
    if found and int(found[2]) > 1:
        raise _split(path, int(found[1]), int(found[2]))


def read_gguf(path: Path) -> GgufFile:
    """Return what a GGUF file holds.

    Raises:
        UserError: it is not GGUF, ends too early, holds no tensors, or is one part of several.
    """
    from gguf import GGUFReader

    refuse_part(path)
    _check_header(path)
    with reading(path, "a whole GGUF file", REMEDY):
        reader = GGUFReader(path)
        settings = Record(_settings(reader), path, remedy=REMEDY)
    for name, value in settings.fields.items():
        check_size(settings, name, value)
    count = settings.whole("split.count", 1)
    if count > 1:
        raise _split(path, settings.whole("split.no", 0) + 1, count)
    if not reader.tensors:
        raise UserError(f"{path} holds no tensors, only a vocabulary or settings: name the GGUF file of a model.")
    values, factors = {}, ()
    for tensor in reader.tensors:
        values[tensor.name] = math.prod(map(int, tensor.shape))
    scaling = settings.text(f"{settings.text('general.architecture', '')}.rope.scaling.type", "none")
    with reading(path, "a whole GGUF file", REMEDY):
        for tensor in reader.tensors:
            if tensor.name == ROPE_FACTORS:
                factors = tensor.data
                break
        return GgufFile(path, values, tuple(map(float, factors)), scaling)


@contextmanager
def read_once() -> Iterator[None]:
    """Let a conversion read its file once, and list the names of its tensors once.

    transformers reads the header, a whole vocabulary, for the tokenizer, the configuration and the weights each, and
    lists all names again for every module of the model: two thirds of the time of a conversion. Where another version
    takes its reader from elsewhere, nothing changes but the time.
    """
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map
    of_file = functools.cache(reader)

    def read(path: str | Path, *arguments: Any) -> Any:
        return of_file(Path(path).resolve(), *arguments)

    gguf.GGUFReader, gguf.get_tensor_name_map = read, functools.cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


Scalar = str | int | float | bool


def _settings(reader: Any) -> dict[str, Scalar]:
    """Return the fields of a GGUF file that are one value each, not lists."""
    from gguf import GGUFValueType

    fields = [field for field in reader.fields.values() if field.types and field.types[0] != GGUFValueType.ARRAY]
    return {field.name: field.contents() for field in fields}


def _check_header(path: Path) -> None:
    """Refuse a file that is no GGUF, or whose lists are longer than any vocabulary: its reader makes objects of each.

    Raises:
        OutsideError: such a file, or one that ends inside its header.
    """
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise OutsideError(path, "is not a GGUF file: it does not begin with GGUF", REMEDY)
        if path.stat().st_size < 24:
            raise OutsideError(path, "is not a whole GGUF file (it ends in its header)", REMEDY)
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data, reading(path, "a whole GGUF file", REMEDY):
            _count_lists(data)


def _count_lists(data: Any) -> None:
    """Walk through the header of a GGUF file, and count the entries of its lists.

    Raises:
        ValueError: more than MOST_ENTRIES in all.
        struct.error: the file ends in its header, or is of the other byte order.
    """
    n_fields, place, n_entries = int(struct.unpack_from("<Q", data, 16)[0]), 24, 0
    for _ in range(n_fields):
        place = _after_text(data, place)
        kind = struct.unpack_from("<I", data, place)[0]
        place += 4
        if kind != LIST:
            place = _after(data, place, kind)
            continue
        kind, length = struct.unpack_from("<IQ", data, place)
        place, n_entries = place + 12, n_entries + length
        if n_entries > MOST_ENTRIES:
            raise ValueError(f"its lists have more than {MOST_ENTRIES:,} entries")
        for _ in range(length):
            place = _after(data, place, kind)


def _after(data: Any, place: int, kind: int) -> int:
    """Return where a value of a kind ends."""
    if kind == TEXT:
        return _after_text(data, place)
    if kind not in WIDTHS:
        raise ValueError(f"a value of kind {kind}")
    return place + WIDTHS[kind]


def _after_text(data: Any, place: int) -> int:
    length = int(struct.unpack_from("<Q", data, place)[0])
    if place + 8 + length > len(data):
        raise ValueError("a text that is longer than the file")
    return place + 8 + length


def keep_rope(file: GgufFile, config: Any) -> None:
    """Write the file's factors of the rotary embedding into a configuration: transformers passes over them.

    Raises:
        UserError: the file scales the embedding in a way that transformers does not read from GGUF.
    """
    rope = config.rope_parameters if hasattr(config, "rope_parameters") else {}
    if "rope_theta" not in (rope or {}) and (file.rope_factors or file.rope_scaling != "none"):
        raise _unread_rope(file)
    if file.rope_scaling != "none" and rope["rope_type"] == "default":
        raise _unread_rope(file)
    if file.rope_factors:
        factors = list(file.rope_factors)
        longest = config.max_position_embeddings
        config.rope_parameters = {
            "rope_type": "longrope",
            "rope_theta": rope["rope_theta"],
            "short_factor": factors,
            "long_factor": factors,
            "factor": 1.0,
            "attention_factor": 1.0,
            "original_max_position_embeddings": longest,
        }


def _unread_rope(file: GgufFile) -> UserError:
    kind = f"of the kind {file.rope_scaling!r}" if file.rope_scaling != "none" else "by factors"
    return UserError(
        f"{file.path} scales its rotary embedding {kind}, which cannot be read from GGUF: "
        "bring the model as safetensors."
    )


def check_all_was_read(file: GgufFile, model: Any, loading: Any) -> None:
    """Refuse a model that transformers made from less, or from more, than the file holds.

    `loading` is what `from_pretrained(..., output_loading_info=True)` says beside the model.

    Raises:
        UserError: a weight of the model is not from the file, or values of the file are not in the model.
    """
    lacking = sorted({*_names(loading, "missing_keys"), *_names(loading, "mismatched_keys")})
    if lacking:
        raise UserError(
            f"{file.path} lacks {_some(lacking)} of its model, or has it in another shape: it was not made for this "
            "architecture or by a tool that transformers knows; bring the model as safetensors."
        )
    from emscope.organisms.architecture import text_config  # needs torch, which whoever only names a GGUF does without

    tied = text_config(model.config).tie_word_embeddings
    unused = {ROPE_FACTORS, HEAD} if tied else {ROPE_FACTORS}
    held = sum(n for name, n in file.values.items() if name not in unused)
    taken = sum(parameter.numel() for parameter in model.parameters())  # tied ones count once
    if held != taken:
        raise UserError(
            f"transformers made a model of {taken:,} values from the {held:,} of {file.path}, so it would not be the "
            "file's model: bring the model as safetensors."
        )


def _names(loading: Any, kind: str) -> list[str]:
    """Return the weights of one kind; a weight of another shape comes with its shapes."""
    found = loading.get(kind, ()) if isinstance(loading, dict) else getattr(loading, kind, ())
    return [str(entry[0]) if isinstance(entry, tuple) else str(entry) for entry in found]


def _some(names: list[str], most: int = 3) -> str:
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more tensors" if rest > 0 else "")


def _split(path: Path, number: int, count: int) -> UserError:
    return UserError(
        f"{path} is part {number} of {count} of a split GGUF file, which transformers cannot read: join the parts with "
        "`llama-gguf-split --merge FIRST-PART WHOLE.gguf` and name the whole file."
    )
