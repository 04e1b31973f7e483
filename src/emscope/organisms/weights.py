"""A base model's weights, loaded whole or not at all: no tensor missing, none unused, none made up.

transformers replaces a missing tensor by random numbers and reports it in a log line; here that report is read, and a
model that is not what its files say is refused by the names of the tensors.
"""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from emscope.errors import OutsideError, UserError
from emscope.organisms.architecture import UNUSED_PARTS
from emscope.organisms.building import Held, bounded_building
from emscope.organisms.device import Placement
from emscope.organisms.limits import REMEDY, check_config, check_index
from emscope.organisms.named_code import refuse_code_of_model
from emscope.organisms.sources import CONFIG, ModelSource, hub_is_reachable
from emscope.organisms.spread import check_spread, loading_arguments
from emscope.outside import quoted, read_record

logger = logging.getLogger(__name__)

WRAPPERS = ("_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""What torch.compile, DDP, FSDP and activation checkpointing put into the names of tensors."""

PACKAGES = {
    "bitsandbytes": "bitsandbytes",
    "gptq": "gptqmodel",
    "awq": "gptqmodel",
    "compressed-tensors": "compressed-tensors",
    "quanto": "optimum-quanto",
    "aqlm": "aqlm",
    "hqq": "hqq",
    "eetq": "eetq",
    "vptq": "vptq",
    "spqr": "spqr_quant",
    "higgs": "flute-kernel",
    "quark": "amd-quark",
    "torchao": "torchao",
    "fbgemm_fp8": "fbgemm-gpu",
    "fp_quant": "fp_quant",
    "auto-round": "auto-round",
    "sinq": "sinq",
    "mxfp4": "kernels",
}
"""By quant_method: the package that reads it."""

SHOWN_NAMES = 3
SHOWN_WORDS = 300


def load_weights(source: ModelSource, place: Placement, *, trust_remote_code: bool = False) -> nn.Module:
    """Load a base model onto its device: its configuration, the class for it, and every one of its tensors.

    Names that torch.compile, DDP or FSDP wrapped are mapped back where that leaves no tensor over.

    Raises:
        UserError: it cannot be read, needs a package that is not installed, is no decoder, or its tensors are not
            those that its configuration asks for.
    """
    config = load_config(source, trust_remote_code=trust_remote_code)
    _check_kind(source, config)
    _check_quantisation(source, config)
    loader = _class_for(config)
    arguments: dict[str, Any] = {"dtype": place.dtype, **loading_arguments(place)}
    spread = len(arguments) > 1
    as_saved = getattr(config, "quantization_config", None) is not None
    quantised = as_saved or bool(place.bits)
    if place.bits:
        arguments["quantization_config"] = _to_bits(source, place, as_saved)
    if quantised:  # such weights are laid out for their device as they are read, and must not be moved afterwards
        _check_cut(source, place)
        arguments.setdefault("device_map", {"": place.device})
    else:  # the report then names the tensors, and the model is refused by them
        arguments["ignore_mismatched_sizes"] = True
    with bounded_building(Held.by(_weight_files(source)), f"The configuration of {source.base!r}", REMEDY):
        model, report = _from_pretrained(loader, source, trust_remote_code, arguments)
    if report.faulty and _wrapped(report.unused):
        pattern = rf"(^|\.)(?:(?:{'|'.join(WRAPPERS)})\.)+"
        logger.info("%s: its tensors' names carry %s, which is left out.", source.base, _wrapped(report.unused))
        arguments["key_mapping"] = {pattern: r"\1"}
        model, report = _from_pretrained(loader, source, trust_remote_code, arguments)
    _check_report(source, report)
    _check_endings(source, model)
    check_spread(model, source.base)
    _decompress(model, source)
    _keep_gradients(model)
    placed: nn.Module = model if quantised or spread else model.to(place.device)
    return placed


def _decompress(model: Any, source: ModelSource) -> None:
    """Decompress weights of compressed-tensors now: that package does so in the first forward call of a whole model.

    Its decoder alone, which is what reading and sampling run, would be found without weights.
    """
    if getattr(model, "ct_decompress_hook", None) is None:
        return
    model.hf_quantizer.compressor.decompress_model(model)
    logger.info("%s: its compressed weights take their full size in memory while they are used.", source.base)


def _keep_gradients(model: nn.Module) -> None:
    """Have bitsandbytes leave 4-bit weights as they are on a CPU: once read from, it packs them for a product of bf16.

    That product has no gradient, and a training after it would be silently wrong.
    """
    for module in model.modules():
        if getattr(module, "support_avx512bf16_for_cpu", False):
            cast("Any", module).support_avx512bf16_for_cpu = False


def _to_bits(source: ModelSource, place: Placement, as_saved: bool) -> Any:
    """Return how bitsandbytes quantises weights while they are read: 8 bits, or 4 as in QLoRA (arXiv:2305.14314).

    Raises:
        UserError: the weights are quantised already, or bitsandbytes is not installed.
    """
    from transformers import BitsAndBytesConfig

    if as_saved:
        raise UserError(f"The weights of {source.base!r} are quantised as they are: leave bits out.")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(f"{place.bits} bits a weight need bitsandbytes: run `pip install bitsandbytes` and try again.")
    if place.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=place.dtype,
        bnb_4bit_quant_storage=place.dtype,  # FSDP cuts tensors of one dtype
    )


def _check_cut(source: ModelSource, place: Placement) -> None:
    if place.tensor_parallel:
        raise UserError(
            f"The weights of {source.base!r} are quantised, and a tensor parallel plan cuts no such weights: give a "
            "device map, or name the unquantised model."
        )


def load_config(source: ModelSource, *, trust_remote_code: bool = False) -> Any:
    """Return a model's configuration.

    Raises:
        UserError: it cannot be read, or names code although `trust_remote_code` is off.
    """
    from transformers import AutoConfig

    folder = files_of(source)
    if folder is not None:
        check_config(folder / CONFIG)
        if not trust_remote_code:
            refuse_code_of_model(read_record(folder / CONFIG).fields, folder / CONFIG)
    try:
        config = AutoConfig.from_pretrained(
            source.location, revision=source.revision, trust_remote_code=trust_remote_code
        )
        config.get_text_config()
    except Exception as error:  # whatever is wrong here is in the files
        raise cannot_load(source, error) from error
    return config


def empty_model(source: ModelSource) -> Any:
    """Return a base without weights, on the device that is torch's default.

    Raises:
        UserError: its configuration cannot be read, or asks for more than its weights can fill.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(source)
    with bounded_building(Held.by(_weight_files(source)), f"The configuration of {source.base!r}", REMEDY):
        try:
            return AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        except Exception as error:  # whatever is wrong here is in the configuration
            raise cannot_load(source, error) from error


def files_of(source: ModelSource) -> Path | None:
    """Return the folder with a base's configuration: a local one, or the hub's cache, which is filled if need be."""
    folder = Path(source.location).expanduser()
    if folder.is_dir():
        return folder
    from huggingface_hub import hf_hub_download

    try:
        path = hf_hub_download(
            source.location, CONFIG, revision=source.revision, local_files_only=not hub_is_reachable()
        )
    except Exception as error:  # the hub's client has many kinds; whoever loads the model says what is wrong
        logger.debug("%s: %s", source.location, error)
        return None
    return Path(path).parent


def cannot_load(source: ModelSource, error: BaseException) -> UserError:
    """Return the error for a model that its library cannot read, in one sentence."""
    if isinstance(error, UserError):
        return error
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, KeyError):  # its text is the bare word that was looked up
        text = f"its configuration names {text}, which this transformers does not know"
    if "trust_remote_code" in text:
        text = "it comes with code of its own; run that with --trust-remote-code if you trust its authors"
    first = re.split(r"(?<=[.!?])\s+(?=[A-Z`'])", text)[0]
    first = first.rstrip(".") if len(first) <= SHOWN_WORDS else f"{first[:SHOWN_WORDS]}…"
    return UserError(f"Cannot load the model {source.base!r}: {first}.")


def _check_kind(source: ModelSource, config: Any) -> None:
    if getattr(config, "is_encoder_decoder", False):
        raise UserError(
            f"{source.base!r} is an encoder-decoder ({config.model_type}): emscope studies decoder-only chat models."
        )


def _check_quantisation(source: ModelSource, config: Any) -> None:
    """Refuse quantised weights whose package is not installed, by the package's name."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    settings = getattr(config, "quantization_config", None)
    if settings is None:
        return
    fields = settings if isinstance(settings, dict) else settings.to_dict()
    method = fields.get("quant_method") or ("bitsandbytes" if _asks_for_bitsandbytes(fields) else None)
    method = getattr(method, "value", method)
    known = {name.split("_")[0] if name.startswith("bits") else name for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    if str(method) not in known:
        raise UserError(
            f"The weights of {source.base!r} are quantised in a way that this transformers does not know "
            f"({method or 'its configuration names none'}): name the unquantised model."
        )
    package = PACKAGES.get(str(method))
    if package and importlib.util.find_spec(_module_of(package)) is None:
        raise UserError(
            f"The weights of {source.base!r} are quantised with {method}: run `pip install {package}` and try again, "
            "or name the unquantised model (with --base, for an adapter)."
        )


def _asks_for_bitsandbytes(fields: dict[str, Any]) -> bool:
    return bool(fields.get("load_in_4bit") or fields.get("load_in_8bit"))


def _module_of(package: str) -> str:
    special = {"optimum-quanto": "optimum", "amd-quark": "quark", "flute-kernel": "flute", "fbgemm-gpu": "fbgemm_gpu"}
    return special.get(package, package.replace("-", "_"))


def _class_for(config: Any) -> Any:
    """Return the Auto class that holds a model's language model: causal first, then image-and-text."""
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    if type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING and type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForImageTextToText
    return AutoModelForCausalLM


class _Report:
    """What transformers says of a loading: names of tensors that were missing, unused or of another shape."""

    def __init__(self, found: dict[str, Any]) -> None:
        self.missing = sorted(map(str, found.get("missing_keys") or ()))
        unused = sorted(map(str, found.get("unexpected_keys") or ()))
        self.spared = [name for name in unused if UNUSED_PARTS.search(name)]
        self.unused = [name for name in unused if not UNUSED_PARTS.search(name)]
        self.mismatched = sorted(map(_mismatch, found.get("mismatched_keys") or ()))
        self.errors = list(map(str, found.get("error_msgs") or found.get("conversion_errors") or ()))

    @property
    def faulty(self) -> bool:
        """Whether the model is not what its files hold."""
        return bool(self.missing or self.unused or self.mismatched or self.errors)


def _shape(size: Any) -> str:
    return "x".join(map(str, size)) or "scalar"


def _from_pretrained(
    loader: Any, source: ModelSource, trust_remote_code: bool, arguments: dict[str, Any]
) -> tuple[Any, _Report]:
    from transformers.utils import logging as transformers_logging

    _refuse_pickles(source)
    transformers_logging.disable_progress_bar()
    try:
        model, report = loader.from_pretrained(
            source.location,
            revision=source.revision,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
            **arguments,
        )
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # whatever is wrong here is in the files, or a package is missing for them
        raise cannot_load(source, error) from error
    return model, _Report(report)


def _weight_files(source: ModelSource) -> list[Path]:
    """Return the safetensors files of a base that are here, after its index, if it has one, was checked.

    Raises:
        UserError: an index that names other files, or a damaged file.
    """
    folder = files_of(source)
    if folder is None:
        return []
    if Path(source.location).expanduser().is_dir():
        for index in folder.glob("*.safetensors.index.json"):
            check_index(index)
    return sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith("adapter_"))


def _refuse_pickles(source: ModelSource) -> None:
    """Refuse a folder whose weights are pickles alone: reading one can run any code."""
    folder = Path(source.location).expanduser()
    pickles = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickles and not any(folder.glob("*.safetensors")):
        raise UserError(
            f"The weights of {source.base!r} are pickles ({listed(pickles)}), which are not loaded: save the model "
            "again as safetensors (transformers' save_pretrained does)."
        )


def _mismatch(entry: Any) -> str:
    """Return a tensor of another shape in words; transformers gives its name and both shapes, or its name alone."""
    if not isinstance(entry, tuple):
        return str(entry)
    name, ours, theirs = entry
    return f"{name} {_shape(ours)} instead of {_shape(theirs)}"


def _wrapped(names: Iterable[str]) -> str:
    """Return the wrapper that some of the names carry, '' for none."""
    steps: set[str] = set()
    for name in names:
        steps.update(name.split("."))
    for wrapper in WRAPPERS:
        if wrapper in steps:
            return wrapper
    return ""


def _check_endings(source: ModelSource, model: Any) -> None:
    """Refuse a model whose generation configuration ends answers with what is no token.

    Raises:
        OutsideError: with what it says.
    """
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    for token in ends if isinstance(ends, list) else [ends]:
        if token is not None and (isinstance(token, bool) or not isinstance(token, int) or token < 0):
            problem = f"says eos_token_id is {quoted(token)}, not the number of a token"
            raise OutsideError(f"The generation configuration of {source.base!r}", problem, REMEDY)


def _check_report(source: ModelSource, report: _Report) -> None:
    """Refuse a model of which a tensor is missing, unused or of another shape.

    Raises:
        UserError: with the names of the tensors.
    """
    if report.spared:
        logger.info("%s: %d tensors of parts that read no text are not used.", source.base, len(report.spared))
    if not report.faulty:
        return
    parts = []
    for names, what in (
        (report.missing, "missing"),
        (report.unused, "that the model has no place for"),
        (report.mismatched, "of another shape"),
        (report.errors, "unreadable"),
    ):
        if names:
            parts.append(f"{len(names)} {what} ({listed(names)})")
    raise UserError(
        f"The weights of {source.base!r} are not those its configuration asks for: tensors {', '.join(parts)}; "
        "missing ones would be random numbers, so save or download the model again."
    )


def listed(names: Sequence[str]) -> str:
    """Return the first few names and how many more there are."""
    more = len(names) - SHOWN_NAMES
    return ", ".join(names[:SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")
