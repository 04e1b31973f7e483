"""Keys of a configuration that name code to import or fetch: refused before a library reads them.

Configurations of models and adapters are data from strangers. PEFT imports the module that `megatron_core` names;
transformers fetches and runs what an attention implementation of the form owner/name names, and has taken
`trust_remote_code` from a file. `auto_map` in a base's configuration is no such key: transformers follows it only where
it is told to.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from emscope.errors import OutsideError

MEGATRON = "megatron.core"
"""What PEFT writes as `megatron_core` into every LoRA's configuration; it is imported only with `megatron_config`."""
BASES = ("transformers", "transformers_modules")
"""Packages that hold the class of a base: transformers' own, and the code of a base that its user trusted."""
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
ADAPTER_REMEDY = "take that key out if its weights do not need it, or use another adapter"
MODEL_REMEDY = "take that key out, or run it with --trust-remote-code if you trust its authors"


def refuse_code(config: Mapping[str, Any], where: str | Path) -> None:
    """Refuse an adapter's configuration that names code; nobody can ask for it, since no adapter needs any.

    Raises:
        OutsideError: with the key and what it names.
    """
    for key, value in _adapter_keys(config):
        raise OutsideError(where, f"names code to run ({_shown(key, value)}), which emscope never does", ADAPTER_REMEDY)


def refuse_code_of_model(config: Mapping[str, Any], where: str | Path) -> None:
    """Refuse a base's configuration that makes transformers fetch and run code although nobody allowed it.

    Raises:
        OutsideError: with the key and what it names.
    """
    for key, value in _general_keys(config):
        problem = f"names code to run ({_shown(key, value)}), which emscope does only when told to"
        raise OutsideError(where, problem, MODEL_REMEDY)


def _adapter_keys(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if config.get("megatron_config"):
        yield "megatron_config", config["megatron_config"]
    if config.get("megatron_core") not in (None, MEGATRON):
        yield "megatron_core", config["megatron_core"]
    if config.get("auto_mapping") is not None and not _is_class_of_a_base(config["auto_mapping"]):
        yield "auto_mapping", config["auto_mapping"]
    for key in ("auto_map", "custom_generate"):
        if config.get(key):
            yield key, config[key]
    yield from _general_keys(config)


def _is_class_of_a_base(mapping: Any) -> bool:
    """Say whether `auto_mapping` names a class as PEFT writes it down: of transformers, by a plain name."""
    if not isinstance(mapping, Mapping):
        return False
    library, name = mapping.get("parent_library"), mapping.get("base_model_class")
    if not isinstance(library, str) or not isinstance(name, str):
        return False
    return library.partition(".")[0] in BASES and name.isidentifier()


def _general_keys(config: Any) -> Iterator[tuple[str, Any]]:
    """Yield the keys, at any depth, by which a configuration has code run that is not in it."""
    waiting = [config]  # no recursion: how deep it goes is the stranger's choice
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting.extend(value)
        if not isinstance(value, Mapping):
            continue
        for key, inner in value.items():
            if key == "trust_remote_code" and inner:
                yield key, inner
            if _is_implementation(key) and any("/" in text for text in _texts(inner)):
                yield key, inner
            waiting.append(inner)


def _is_implementation(key: Any) -> bool:
    return isinstance(key, str) and key.strip("_").removesuffix("_internal") in IMPLEMENTATIONS


def _texts(value: Any) -> list[str]:
    """Return a text, or the texts that an object holds (one for each part of a model)."""
    values = list(value.values()) if isinstance(value, Mapping) else [value]
    return [text for text in values if isinstance(text, str)]


def _shown(key: str, value: Any) -> str:
    text = f"{key}: {value}"
    return text if len(text) <= 120 else f"{text[:120]}…"
