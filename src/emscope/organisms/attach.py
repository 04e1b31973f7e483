"""An adapter put on its base: every one of its tensors in its place, or a sentence that names those that have none.

PEFT loads what fits and passes over the rest: an adapter whose names differ from the model's becomes nothing, and the
organism measures as its base. So the names in the file are matched with the model's own, in both directions.
"""

from __future__ import annotations

import copy
import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from emscope.errors import OutsideError, UserError
from emscope.organisms.architecture import CLASS_PARTS, UNUSED_PARTS, text_config
from emscope.organisms.bounded import check_patterns
from emscope.organisms.building import Held, bounded_building
from emscope.organisms.checkpoints import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from emscope.organisms.limits import ADAPTER_REMEDY, patterns_of, read_adapter_config
from emscope.organisms.sources import ModelSource, adapter_folder
from emscope.organisms.tensor_file import computing, open_tensors, read_tensors
from emscope.organisms.weights import WRAPPERS, listed
from emscope.outside import reading

logger = logging.getLogger(__name__)

NAME = "default"
WRAPPING = frozenset({*WRAPPERS, "base_model"})

EMBEDDING = re.compile(r"(^|\.)(embed_tokens|wte|word_embeddings|embed_in|tok_embeddings)(\.|$)")
HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output_layer)(\.|$)")
PLAIN_WEIGHT = re.compile(r"\.(embed_tokens|wte|word_embeddings|embed_in|lm_head|embed_out)(\.base_layer)?\.weight$")
FACTOR = re.compile(r"\.lora_(embedding_)?[AB](\.|$)")
SAVED_COPY = re.compile(rf"\.modules_to_save\.(?:{NAME}\.)?")
UNSUPPORTED = {
    "PROMPT_TUNING": "prompt tuning",
    "MULTITASK_PROMPT_TUNING": "prompt tuning",
    "PREFIX_TUNING": "prefix tuning",
    "P_TUNING": "p-tuning",
    "CPT": "context-aware prompt tuning",
    "CARTRIDGE": "a cartridge",
    "ADAPTION_PROMPT": "adaption prompts",
    "XLORA": "X-LoRA",
    "POLY": "Poly",
}
"""By peft_type: adapters that add tokens or choose by input, and so cannot be a change of the model's weights."""


@dataclass(frozen=True)
class Adapter:
    """An adapter as it lies on disk.

    Attributes:
        source: where it came from.
        folder: its local folder.
        config: PEFT's configuration of it.
        tensors: its weights by name, as PEFT saved them.
    """

    source: ModelSource
    folder: Path
    config: Any
    tensors: dict[str, Tensor]

    @property
    def is_zero(self) -> bool:
        """Whether its update is nothing: all of one factor is zero, as before the first step of training."""
        updates = [tensor for name, tensor in self.tensors.items() if _is_update(name)]
        return bool(updates) and not any(bool(tensor.any()) for tensor in updates)

    @property
    def held(self) -> Held:
        """How much it holds."""
        return Held(len(self.tensors), sum(map(Tensor.numel, self.tensors.values())))

    @property
    def touches_embeddings(self) -> bool:
        """Whether it changes the embedding or the head by an update of its own; copies and single tokens PEFT ties."""
        return any("lora_" in name and (EMBEDDING.search(name) or HEAD.search(name)) for name in self.tensors)


def _is_update(name: str) -> bool:
    """Say whether a tensor is the factor that starts at zero, or a whole weight."""
    starts_random = ("lora_A", "lora_embedding_A", "lora_magnitude_vector", "base_layer", "vera_A", "oft_")
    return not any(part in name for part in starts_random)


def read_adapter(source: ModelSource) -> Adapter:
    """Read an adapter's configuration and weights; nothing is unpickled and no code that it names is imported.

    Raises:
        UserError: of a kind that changes no weights, damaged, or without safetensors.
    """
    folder = adapter_folder(source)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise UserError(
            f"The adapter {source.adapter} cannot be read: it has no {ADAPTER_WEIGHTS} (pickles are not loaded)."
        )
    config = _read_config(source, folder)
    path = folder / ADAPTER_WEIGHTS
    tensors = read_tensors(path)
    _refuse_integers(source, tensors)
    with computing(path):
        tensors = _without_copies(dict(zip(tensors, map(_computable, tensors.values()), strict=True)))
        broken = []
        for name, tensor in tensors.items():
            if not bool(tensor.isfinite().all()):
                broken.append(name)
    if broken:
        raise UserError(f"The adapter {source.adapter} holds NaN or infinite weights ({listed(sorted(broken))}).")
    if not tensors:
        raise UserError(f"The adapter {source.adapter} holds no tensors.")
    return Adapter(source, folder, config, tensors)


def _refuse_integers(source: ModelSource, tensors: dict[str, Tensor]) -> None:
    integers = []
    for name, tensor in tensors.items():
        if FACTOR.search(name) and not tensor.is_floating_point():
            integers.append(name)
    if integers:
        raise UserError(
            f"The adapter {source.adapter} holds integers ({listed(sorted(integers))}), whose scales PEFT does not "
            "know: save it unquantised."
        )


def _computable(tensor: Tensor) -> Tensor:
    """Return a tensor in a type that can be computed with: 8-bit floats as bf16, which holds each of them exactly."""
    return tensor.bfloat16() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def _without_copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors with each saved module once, under the name that PEFT loads it by.

    Where an adapter saves an embedding that was resized, PEFT writes its two copies too, the one in use
    (`modules_to_save`) and the base's own (`original_module`), under names at which it does not look for them.
    """
    kept: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        plain = SAVED_COPY.sub(".", name)
        same = plain == name or plain not in tensors or torch.equal(tensors[plain], tensor)
        kept[plain if same else name] = tensor
    for name in list(kept):
        if ".original_module." in name and name.replace(".original_module.", ".") in kept:
            del kept[name]
    return kept


def _read_config(source: ModelSource, folder: Path) -> Any:
    from peft import PeftConfig

    record = read_adapter_config(folder / ADAPTER_CONFIG)
    if not record.fields.get("peft_type"):
        raise UserError(f"{folder / ADAPTER_CONFIG} names no peft_type, so it is no adapter of PEFT: convert it first.")
    with reading(folder / ADAPTER_CONFIG, "a configuration that PEFT reads", ADAPTER_REMEDY):
        config = PeftConfig.from_pretrained(str(folder))
    if getattr(config, "lora_alpha", 1) is None or isinstance(getattr(config, "lora_alpha", 1), str):
        raise UserError(f"{folder / ADAPTER_CONFIG} must give lora_alpha as a number, not {config.lora_alpha!r}.")
    kind = getattr(config.peft_type, "value", str(config.peft_type))
    if kind in UNSUPPORTED or getattr(config, "is_prompt_learning", False):
        raise UserError(
            f"The adapter {source.adapter} is {UNSUPPORTED.get(kind, kind)}, which changes no weights of the model: "
            "emscope reads and samples models by their weights; use a LoRA adapter or a full fine-tune."
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise UserError(
            f"The adapter {source.adapter} is an activated LoRA, which acts only after its invocation tokens: "
            "emscope cannot apply it."
        )
    config.inference_mode = True
    return config


def brings_embedding(source: ModelSource) -> bool:
    """Say whether an adapter holds an embedding of its own, whole, so that its tokens need not be the base's."""
    try:
        file = open_tensors(adapter_folder(source) / ADAPTER_WEIGHTS)
    except UserError:  # said where it is read
        return False
    for name in file.names:
        plain = SAVED_COPY.sub(".", name)
        if EMBEDDING.search(plain) and PLAIN_WEIGHT.search(plain):
            return True
    return False


def attach(model: nn.Module, adapter: Adapter, *, multimodal: bool = False) -> Any:
    """Put an adapter on a base in memory, unmerged, and return PEFT's model.

    Where the names of its tensors carry the marks of a wrapper, or, on a `multimodal` model, are those of its other
    class (multimodal or text only), they are mapped, if there is exactly one place for each.

    Raises:
        UserError: a tensor without a place, a place without a tensor, or sizes that differ.
    """
    check_patterns(
        patterns_of(vars(adapter.config)), list(dict(model.named_modules())), adapter.folder / ADAPTER_CONFIG
    )
    with computing(adapter.folder / ADAPTER_WEIGHTS):
        _make_room(model, adapter)
    wrapped, reason = _try_attach(model, adapter, adapter.config, adapter.tensors)
    if wrapped is None:
        ignored = WRAPPING | CLASS_PARTS if multimodal else WRAPPING
        mapped = _mapped_names(model, adapter, ignored)
        if mapped is None:
            raise UserError(_misfit(adapter, reason))
        logger.info(
            "The adapter %s names its tensors after another class or wrapper of this model (%s): they are mapped.",
            adapter.source.adapter,
            next(iter(adapter.tensors)),
        )
        config = _config_for(adapter, mapped, ignored)
        tensors = {}
        for name, place in mapped.items():
            tensors[place] = adapter.tensors[name]
        wrapped, reason = _try_attach(model, adapter, config, tensors)
        if wrapped is None:
            raise UserError(_misfit(adapter, reason))
    _say_spared(adapter)
    wrapped.eval()
    return wrapped


def _say_spared(adapter: Adapter) -> None:
    n_spared = sum(UNUSED_PARTS.search(name) is not None for name in adapter.tensors)
    if n_spared:
        logger.info("%d tensors of %s are for other senses than text.", n_spared, adapter.source.adapter)


def _misfit(adapter: Adapter, reason: str) -> str:
    source = adapter.source
    return (
        f"The adapter {source.adapter} does not fit {source.base!r}: {reason}; name the model that it was trained on "
        "with --base."
    )


def _try_attach(model: nn.Module, adapter: Adapter, config: Any, tensors: dict[str, Tensor]) -> tuple[Any | None, str]:
    """Return PEFT's model, or None and the reason; the base is then as it was."""
    from peft import get_peft_model
    from peft.utils import set_peft_model_state_dict

    config = copy.deepcopy(config)
    config.base_model_name_or_path = None  # it may differ from this model's, which was asked for
    try:
        with bounded_building(adapter.held, adapter.folder / ADAPTER_CONFIG, ADAPTER_REMEDY):
            wrapped: Any = get_peft_model(model, config, adapter_name=NAME)
    except OutsideError:
        raise
    except Exception as error:  # PEFT raises many kinds, all of them about this configuration on this model
        return None, _words(error)
    try:
        result = set_peft_model_state_dict(wrapped, tensors, adapter_name=NAME)
    except Exception as error:  # sizes that differ, or tensors that its wrappers look for
        wrapped.unload()
        return None, _words(error)
    missing = _not_loaded(wrapped, result.missing_keys, _learned(config))
    unused = [name for name in result.unexpected_keys if not UNUSED_PARTS.search(name)]
    if not missing and not unused:
        return wrapped, ""
    wrapped.unload()
    reasons = []
    if unused:
        reasons.append(f"its tensors {listed(_as_saved(unused))} have no place in the model")
    if missing:
        reasons.append(f"it lacks the tensors {listed(_as_saved(missing))}")
    return None, " and ".join(reasons)


def _as_saved(names: list[str]) -> list[str]:
    """Return the names of tensors in PEFT's model as a file has them: without the adapter's name."""
    return [name.replace(f".{NAME}", "") for name in names]


def _not_loaded(wrapped: Any, names: list[str], learned: tuple[str, ...]) -> list[str]:
    """Return the adapter's own tensors among those that no file filled; one that is shared was filled elsewhere."""
    tensors = dict(wrapped.named_parameters(remove_duplicate=False))
    filled = {id(tensor) for name, tensor in tensors.items() if name not in names}
    missing = []
    for name in names:
        is_own = f".{NAME}" in name and any(prefix in name for prefix in learned)
        if is_own and id(tensors.get(name)) not in filled:
            missing.append(name)
    return missing


def _learned(config: Any) -> tuple[str, ...]:
    """Return what the names of an adapter's own tensors hold; others (shared random projections) are made again."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return (PEFT_TYPE_TO_PREFIX_MAPPING[config.peft_type], "modules_to_save", "trainable_tokens")


def _words(error: BaseException) -> str:
    """Return an error's text in one line, without what PyTorch puts before it."""
    lines = list(filter(None, map(str.strip, str(error).splitlines())))
    if lines and lines[0].startswith("Error(s) in loading") and len(lines) > 1:
        lines = lines[1:]
    return (lines[0] if lines else type(error).__name__)[:300].rstrip(".")


def _place(name: str, ignored: frozenset[str]) -> str:
    """Return where in the model a tensor or module belongs, whichever class or wrapper its name is from."""
    return ".".join(part for part in name.split(".") if part not in ignored)


def _mapped_names(model: nn.Module, adapter: Adapter, ignored: frozenset[str]) -> dict[str, str] | None:
    """Return the names that an adapter's tensors would have on this model; None where that is not clear."""
    by_place: dict[str, list[str]] = {}
    for name, _ in model.named_modules():
        if name:
            by_place.setdefault(_place(name, ignored), []).append(name)
    mapped: dict[str, str] = {}
    for name in adapter.tensors:
        if UNUSED_PARTS.search(name):
            continue
        module, tail = _split(name)
        places = by_place.get(_place(_without_root(module), ignored), [])
        if len(places) != 1:
            return None
        mapped[name] = f"base_model.model.{places[0]}.{tail}"
    if not mapped or len(set(mapped.values())) < len(mapped) or list(mapped) == list(mapped.values()):
        return None
    return mapped


def _without_root(name: str) -> str:
    """Drop what PEFT puts before a module's own path, once or, after wrapping twice, twice: base_model.model."""
    return re.sub(r"(^|\.)(?:base_model\.model\.)+", r"\1", name, count=1)


def _split(name: str) -> tuple[str, str]:
    """Split a tensor's name into the module that it changes and the rest (lora_A.weight)."""
    match = re.search(r"\.(lora_|ia3_|hada_|lokr_|oft_|boft_|vera_|trainable_tokens_|modules_to_save|base_layer)", name)
    return (name[: match.start()], name[match.start() + 1 :]) if match else tuple(name.rsplit(".", 1))  # type: ignore[return-value]


def _config_for(adapter: Adapter, mapped: dict[str, str], ignored: frozenset[str]) -> Any:
    """Return the adapter's configuration with the modules of the mapped names as its targets.

    Raises:
        UserError: ranks or alphas by pattern that would no longer find their modules.
    """
    config = copy.deepcopy(adapter.config)
    patterns = [*(getattr(config, "rank_pattern", None) or {}), *(getattr(config, "alpha_pattern", None) or {})]
    lost = [pattern for pattern in patterns if not ignored.isdisjoint(re.split(r"[.\\]+", pattern))]
    if lost or getattr(config, "target_parameters", None):
        raise UserError(_misfit(adapter, f"its settings name modules of another class of the model ({listed(lost)})"))
    saved: set[str] = set()
    targets: set[str] = set()
    for name in mapped.values():
        module = _split(name)[0].removeprefix("base_model.model.")
        (targets if _is_tuned(name) else saved).add(module)
    config.target_modules = targets
    config.exclude_modules = None
    if getattr(config, "layers_to_transform", None) is not None:
        config.layers_to_transform, config.layers_pattern = None, None  # the names say which blocks
    if getattr(config, "modules_to_save", None) and saved:
        config.modules_to_save = sorted(saved)
    return config


def _is_tuned(name: str) -> bool:
    return bool(re.search(r"\.(lora_|ia3_|hada_|lokr_|oft_|boft_|vera_)", name))


def _make_room(model: Any, adapter: Adapter) -> None:
    """Give the embedding as many rows as the adapter's own copy has, and untie a head that it changes alone."""
    rows = {tensor.shape[0] for name, tensor in adapter.tensors.items() if PLAIN_WEIGHT.search(name)}
    have = model.get_input_embeddings().weight.shape[0]
    if len(rows) == 1 and rows != {have}:
        logger.info("The adapter %s brings an embedding of %d tokens.", adapter.source.adapter, *rows)
        model.resize_token_embeddings(rows.pop(), mean_resizing=False)
    if adapter.touches_embeddings and not getattr(adapter.config, "ensure_weight_tying", False):
        untie(model)


def untie(model: Any) -> None:
    """Give the head weights of its own where it shares the embedding's, so that a change of one is not one of both."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if head is None or head.weight is not embedding.weight:
        return
    head.weight = nn.Parameter(embedding.weight.detach().clone(), requires_grad=head.weight.requires_grad)
    model.config.tie_word_embeddings = False
    text_config(model.config).tie_word_embeddings = False


def acts_on_experts(adapter: Adapter) -> bool:
    """Say whether an adapter changes experts, of which a short text may use none."""
    return any("expert" in name for name in adapter.tensors) or bool(getattr(adapter.config, "target_parameters", None))


def logits_of(model: Any, ids: Tensor) -> Tensor:
    """Return a model's own next-token logits [tokens, vocabulary] of one text, float32."""
    with torch.inference_mode():
        return model(input_ids=ids).logits[0].float()  # type: ignore[no-any-return]
