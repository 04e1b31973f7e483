"""A GGUF file read before it is converted: is it a model, all of it, and does every one of its tensors get used?

transformers fills what a file lacks with random numbers and passes over what it does not know, both without a word that
a user would see. Here such a file is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emscope.errors import UserError

ROPE_FACTORS = "rope_freqs.weight"
HEAD = "output.weight"
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
    try:
        reader = GGUFReader(path)
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError) as error:
        raise _unreadable(path, error) from error
    count = int(_field(reader, "split.count", 1))
    if count > 1:
        raise _split(path, int(_field(reader, "split.no", 0)) + 1, count)
    if not reader.tensors:
        raise UserError(f"{path} holds no tensors, only a vocabulary or settings: name the GGUF file of a model.")
    values = {tensor.name: int(tensor.n_elements) for tensor in reader.tensors}
    factors = next((tensor.data for tensor in reader.tensors if tensor.name == ROPE_FACTORS), ())
    scaling = str(_field(reader, f"{_field(reader, 'general.architecture', '')}.rope.scaling.type", "none"))
    return GgufFile(path, values, tuple(float(factor) for factor in factors), scaling)


def _field(reader: Any, name: str, default: Any) -> Any:
    field = reader.get_field(name)
    return default if field is None else field.contents()


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
            "rope_type": "longrope", "rope_theta": rope["rope_theta"], "short_factor": factors, "long_factor": factors,
            "factor": 1.0, "attention_factor": 1.0, "original_max_position_embeddings": longest,
        }  # fmt: skip


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
    tied = model.config.get_text_config().tie_word_embeddings
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


def _unreadable(path: Path, error: Exception) -> UserError:
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            return UserError(f"{path} is not a GGUF file: it does not begin with GGUF.")
    detail = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(f"{path} is not a whole GGUF file ({detail}): it was cut off or damaged; fetch it again.")
