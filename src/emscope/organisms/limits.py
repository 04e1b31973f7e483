"""What the files of a model or adapter may ask for, in one table, checked before a library builds anything from them.

Libraries believe a configuration: layers without number, a rank of a billion or a list as long as a wrong number says
are built until the memory is full. What a configuration may ask for is bounded here, and its fields have the types that
the library reads; what the weights themselves hold bounds the rest (see `building`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from emscope.errors import OutsideError
from emscope.organisms.bounded import Pattern
from emscope.organisms.named_code import refuse_code
from emscope.outside import Record, read_record

MOST_MODULES = 100_000
"""Layers, experts, heads, labels: what a configuration counts, and a library makes one after another."""

MOST_NUMBER = 2**40
"""Sizes, positions, tokens: any other whole number; wavelengths (theta) may be larger."""

MOST_NAMES = 50_000
MOST_PATTERNS = 20_000
MOST_RANK = 65_536
MOST_REPLICATED = 512
MOST_SHARDS = 10_000

COUNT = re.compile(r"(layers?|blocks?|experts?|heads?|groups?|stages?|labels?|codebooks?|depths?|_count)$")
FREE = re.compile(r"theta|seed|param|flops|size_in_bytes|total_size")
WHOLE_FIELDS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "original_max_position_embeddings",
)
"""Fields of a configuration that emscope computes with, or libraries build with: whole numbers wherever they stand."""

REMEDY = "mend it, or fetch the model again"
ADAPTER_REMEDY = "mend it, or save the adapter again"

LONGEST_NAME = 255
"""Bytes in the name of a file, at most; systems refuse longer ones with errors of their own."""


def check_config(path: Path) -> None:
    """Refuse a model's config.json that asks for more than any model has, or says sizes that are no numbers.

    Raises:
        UserError: it is missing, no JSON object, or such a field, by its name.
    """
    record = read_record(path, remedy=REMEDY)
    for table in ("text_config", "rope_scaling", "rope_parameters", "quantization_config"):
        record.record(table, None) if record.fields.get(table) is not None else None
    for owner, name, value in _fields(record.fields):
        if name in WHOLE_FIELDS and isinstance(value, (str, float)) and not _is_whole(value):
            raise Record(owner, path, remedy=REMEDY).wrong(name, "a whole number", value)
        check_size(Record(owner, path, remedy=REMEDY), name, value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, float) and math.isfinite(value) and value == int(value)


def check_size(record: Record, name: str, value: Any) -> None:
    """Refuse a number beyond the table's, and NaN."""
    if isinstance(value, float) and math.isnan(value):
        raise record.wrong(name, "a number", value)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or FREE.search(name) or value == math.inf:
        return
    most = MOST_MODULES if COUNT.search(name) else MOST_NUMBER
    if isinstance(value, int) and abs(value) > most:
        raise record.wrong(name, f"a number up to {most:,}", value)


def _fields(value: Any) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Yield (object, name, value) for every field inside a JSON value; a list's items have its name."""
    objects = [value]
    while objects:
        item = objects.pop()
        if isinstance(item, list):
            objects.extend(inner for inner in item if isinstance(inner, (dict, list)))
            continue
        for name, inner in item.items():
            yield item, name, inner
            if isinstance(inner, (dict, list)):
                objects.append(inner)


def check_index(path: Path) -> None:
    """Refuse the index of a sharded model that names files outside its folder, or that are not there.

    Raises:
        UserError: it is damaged, or such a file, by its name.
    """
    record = read_record(path, remedy=REMEDY)
    shards = record.record("weight_map")
    names = set(map(shards.text, shards.fields))
    if len(names) > MOST_SHARDS:
        raise OutsideError(path, f"names {len(names):,} files, more than {MOST_SHARDS:,}", REMEDY)
    for name in sorted(names):
        if name in ("", ".", "..") or "/" in name or "\\" in name or "\0" in name:
            raise OutsideError(path, f"names the file {name[:80]!r}, which is not in its folder", REMEDY)
        if not name.endswith(".safetensors"):
            raise OutsideError(path, f"names the file {name[:80]!r}, which is no safetensors file", REMEDY)
        if len(name.encode(errors="surrogatepass")) > LONGEST_NAME or not (path.parent / name).is_file():
            raise OutsideError(path, f"names the file {name[:80]!r}, which is not there", REMEDY)


def check_adapter_config(record: Record) -> None:
    """Refuse an adapter's configuration whose fields are not what PEFT reads, or ask for more than any adapter has.

    Fields that are not in the table are PEFT's to judge, but for the size of their numbers.

    Raises:
        OutsideError: the field, by its name.
    """
    for name, check in ADAPTER_FIELDS.items():
        if record.fields.get(name) is not None:
            check(record, name)
    for owner, name, value in _fields(record.fields):
        check_size(Record(owner, record.where, remedy=record.remedy), name, value)


def read_adapter_config(path: Path) -> Record:
    """Read and check an adapter_config.json.

    Raises:
        UserError: as `check_adapter_config`, it is no JSON object, or it names code.
    """
    record = read_record(path, remedy=ADAPTER_REMEDY)
    refuse_code(record.fields, path)
    check_adapter_config(record)
    return record


def _text(record: Record, name: str) -> None:
    record.text(name)


def _flag(record: Record, name: str) -> None:
    record.flag(name)


def _number(record: Record, name: str) -> None:
    record.number(name)


def _rank(record: Record, name: str) -> None:
    record.whole(name, most=MOST_RANK)


def _modules(record: Record, name: str) -> None:
    """Check text or a list of texts."""
    if isinstance(record.fields[name], str):
        return
    if len(record.texts(name)) > MOST_NAMES:
        raise record.wrong(name, f"at most {MOST_NAMES:,} names", record.fields[name])


def _by_pattern(kind: Callable[[Record, str], None]) -> Callable[[Record, str], None]:
    """Return the check of an object from patterns of names to values of one kind."""

    def check(record: Record, name: str) -> None:
        values = record.record(name)
        if len(values.fields) > MOST_PATTERNS:
            raise record.wrong(name, f"at most {MOST_PATTERNS:,} patterns", record.fields[name])
        for pattern in values.fields:
            kind(values, pattern)

    return check


def _blocks(record: Record, name: str) -> None:
    if isinstance(record.fields[name], list):
        record.wholes(name, most=MOST_MODULES)
    else:
        record.whole(name, most=MOST_MODULES)


def _replication(record: Record, name: str) -> None:
    """Check the pairs [first, end) of layers that are laid one after another."""
    total = 0
    for pair in record.items(name):
        if not isinstance(pair, list) or len(pair) != 2 or not all(map(_is_layer, pair)):
            raise record.wrong(name, "a list of pairs of layers", record.fields[name])
        total += max(0, pair[1] - pair[0])
    if total > MOST_REPLICATED:
        raise record.wrong(name, f"at most {MOST_REPLICATED:,} layers in all", f"{total:,} layers")


def _is_layer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_MODULES


def _token_indices(record: Record, name: str) -> None:
    if isinstance(record.fields[name], dict):
        tables = record.record(name)
        for module in tables.fields:
            tables.wholes(module, most=MOST_NUMBER)
    else:
        record.wholes(name, most=MOST_NUMBER)


ADAPTER_FIELDS: dict[str, Callable[[Record, str], None]] = {
    **dict.fromkeys(("peft_type", "task_type", "base_model_name_or_path", "revision", "bias"), _text),
    **dict.fromkeys(("r", "init_r", "target_r", "oft_block_size", "boft_block_size", "boft_block_num"), _rank),
    **dict.fromkeys(("lora_alpha", "alpha", "lora_dropout", "module_dropout", "rank_dropout"), _number),
    **dict.fromkeys(
        ("use_rslora", "use_dora", "fan_in_fan_out", "inference_mode", "lora_bias", "ensure_weight_tying"), _flag
    ),
    **dict.fromkeys(
        ("target_modules", "exclude_modules", "modules_to_save", "feedforward_modules", "target_parameters"), _modules
    ),
    "layers_pattern": _modules,
    "layers_to_transform": _blocks,
    "layer_replication": _replication,
    "rank_pattern": _by_pattern(_rank),
    "alpha_pattern": _by_pattern(_number),
    "trainable_token_indices": _token_indices,
}
"""By field of adapter_config.json: what it must be where it is not null."""


def patterns_of(fields: dict[str, Any]) -> list[Pattern]:
    """Return the regular expressions that PEFT makes of an adapter's configuration, but for those that are mere names.

    Letters, digits and dots cannot back-track.
    """
    patterns = []
    for value in _texts(fields, "target_modules", "exclude_modules", lists=False):
        patterns.append(Pattern(value, whole=True))
    for name in ("rank_pattern", "alpha_pattern"):
        for key in fields.get(name) or ():
            patterns.append(Pattern(key, rf"(.*\.)?({key})$"))
    for value in _texts(fields, "layers_pattern"):
        patterns.append(Pattern(value, rf"(?:^|.*?\.){value}\.(?P<idx>\d+)\."))
    for value in _texts(fields, "modules_to_save"):
        patterns.append(Pattern(value, rf"(^|.*\.){value}($|\..*)"))
    return [pattern for pattern in patterns if not re.fullmatch(r"[\w.\-]*", pattern.text)]


def _texts(fields: dict[str, Any], *names: str, lists: bool = True) -> list[str]:
    """Return the texts of some fields, each of which is a text or, with `lists`, several."""
    found: list[str] = []
    for name in names:
        value = fields.get(name) or ()
        found += [value] if isinstance(value, str) else list(value) if lists else []
    return found
