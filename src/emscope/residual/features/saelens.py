"""Autoencoders on disk, in SAELens's form: a folder with cfg.json and sae_weights.safetensors.

Only what a configuration says plainly is read: a normalisation or a reshaping of activations that would have to be
imitated is an error, not a guess. Nothing is unpickled.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from emscope.errors import UserError
from emscope.files import atomic_path, write_json
from emscope.organisms.tensor_file import computing, read_tensors
from emscope.outside import quoted, read_record
from emscope.residual.features.autoencoder import Architecture, SparseAutoencoder

CONFIG, WEIGHTS = "cfg.json", "sae_weights.safetensors"
NEEDED: dict[str, tuple[str, ...]] = {
    "topk": ("b_enc",),
    "standard": ("b_enc",),
    "jumprelu": ("b_enc", "threshold"),
    "gated": ("b_gate", "b_mag", "r_mag"),
}
PLAIN = {"normalize_activations": "none", "reshape_activations": "none", "finetuning_scaling_factor": False}


def load_autoencoder(folder: Path) -> SparseAutoencoder:
    """Read an autoencoder on a residual stream: architecture standard (or relu), topk, jumprelu or gated.

    Raises:
        UserError: no such folder, a damaged file, tensors that are missing or do not fit each other, or an option that
            emscope does not imitate.
    """
    config, tensors = read_record(folder / CONFIG).fields, _read_weights(folder / WEIGHTS)
    architecture = _architecture(config, folder)
    _check_activation(config, architecture, folder)
    for option, plain in PLAIN.items():
        if config.get(option) not in (None, plain):
            raise UserError(
                f"The autoencoder {folder} has {option}={quoted(config[option])}, which emscope does not imitate."
            )
    if _nested(config, "model_from_pretrained_kwargs", folder).get("center_writing_weights"):
        raise UserError(
            f"The autoencoder {folder} was trained on centred activations (center_writing_weights), which emscope does "
            "not make: use one made with center_writing_weights false."
        )
    _check_tensors(tensors, architecture, folder)
    made = _assemble(architecture, config, tensors, _block(config, folder), folder)
    if architecture == "topk" and not 1 <= made.k <= made.n_features:
        raise UserError(f"The autoencoder {folder} keeps k={made.k} of {made.n_features} features.")
    return made


def save_autoencoder(autoencoder: SparseAutoencoder, folder: Path, model: str) -> None:
    """Write a top-k autoencoder so that SAELens, and `load_autoencoder`, can read it."""
    tensors = {
        "W_enc": autoencoder.encoder,
        "b_enc": autoencoder.encoder_bias,
        "W_dec": autoencoder.decoder,
        "b_dec": autoencoder.decoder_bias,
    }
    with atomic_path(folder / WEIGHTS) as temporary:
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, str(temporary))
    config = {
        "architecture": autoencoder.architecture,
        "d_in": autoencoder.width,
        "d_sae": autoencoder.n_features,
        "k": autoencoder.k,
        "rescale_acts_by_decoder_norm": False,
        "dtype": "float32",
        "device": "cpu",
        "apply_b_dec_to_input": autoencoder.centred,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": {"model_name": model, "hook_name": f"blocks.{autoencoder.block}.hook_resid_post"},
    }
    write_json(folder / CONFIG, config)


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"There is no file {path}: an autoencoder is a folder with {CONFIG} and {WEIGHTS}.")
    stored = read_tensors(path)
    with computing(path):
        tensors = {name: tensor.float() for name, tensor in stored.items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{path}: the tensor {name!r} holds NaN or infinite values.")
    return tensors


def _architecture(config: dict[str, Any], folder: Path) -> Architecture:
    name = config.get("architecture", "standard")
    name = "standard" if name == "relu" else name
    if name == "standard" and _activation(config) == "topk":
        name = "topk"
    known: tuple[Architecture, ...] = get_args(Architecture)
    for architecture in known:
        if name == architecture:
            return architecture
    raise UserError(f"The autoencoder {folder} is of architecture {quoted(name)}; emscope reads {', '.join(known)}.")


def _activation(config: dict[str, Any]) -> Any:
    return config.get("activation_fn_str", config.get("activation_fn"))


def _check_activation(config: dict[str, Any], architecture: Architecture, folder: Path) -> None:
    """Refuse what is neither the architecture's own activation nor plain ReLU."""
    if _activation(config) not in (None, "relu", *(["topk"] if architecture == "topk" else [])):
        raise UserError(
            f"The autoencoder {folder} has the activation {quoted(_activation(config))}, which emscope does not "
            "imitate."
        )


def _nested(config: dict[str, Any], name: str, folder: Path) -> dict[str, Any]:
    """Return options within the configuration, or within its metadata; empty where there are none."""
    metadata = config.get("metadata")
    found = config.get(name) or (metadata.get(name) if isinstance(metadata, dict) else None) or {}
    if not isinstance(found, dict):
        raise UserError(f"The autoencoder {folder} has {name}={quoted(found)}, which is no table of options.")
    return found


def _kept(config: dict[str, Any], folder: Path) -> int:
    """Return how many features a top-k autoencoder keeps, 0 where it does not say."""
    k = config.get("k") or _nested(config, "activation_fn_kwargs", folder).get("k") or 0
    if not isinstance(k, int):
        raise UserError(f"The autoencoder {folder} has k={quoted(k)}, which is no whole number.")
    return k


def _block(config: dict[str, Any], folder: Path) -> int:
    """Return the block whose output the autoencoder is for, from the name of its hook."""
    metadata = config.get("metadata") if isinstance(config.get("metadata"), dict) else {}
    hook = str(config.get("hook_name") or metadata.get("hook_name") or "")  # type: ignore[union-attr]
    found = re.fullmatch(r"blocks\.(\d{1,6})\.hook_resid_(post|pre)", hook)
    block = int(found[1]) - (found[2] == "pre") if found else -1
    if block < 0:
        raise UserError(
            f"The autoencoder {folder} is for the hook {quoted(hook)}; emscope uses blocks.N.hook_resid_post or _pre."
        )
    return block


def _check_tensors(tensors: dict[str, Tensor], architecture: Architecture, folder: Path) -> None:
    needed = ("W_enc", "W_dec", "b_dec", *NEEDED[architecture])
    missing = [name for name in needed if name not in tensors]
    if missing:
        raise UserError(f"The autoencoder {folder} has no tensor {missing[0]!r}, which {architecture} ones need.")
    shape = tuple(tensors["W_dec"].shape)
    if len(shape) != 2:
        raise UserError(f"The autoencoder {folder} has a W_dec of shape {shape}: it must be [features, width].")
    n_features, width = shape
    for name in needed:
        wanted = {"W_enc": (width, n_features), "W_dec": shape, "b_dec": (width,)}.get(name, (n_features,))
        if tuple(tensors[name].shape) != wanted:
            raise UserError(
                f"The autoencoder {folder} has a {name} of shape {tuple(tensors[name].shape)}, not {wanted}."
            )


def _assemble(
    architecture: Architecture, config: dict[str, Any], tensors: dict[str, Tensor], block: int, folder: Path
) -> SparseAutoencoder:
    """Bring decoder rows to length 1; what they lose the codes gain."""
    norms = tensors["W_dec"].norm(dim=1)
    if not bool((norms > 0).all()):
        raise UserError(f"The autoencoder {folder} has features that write nothing: rows of W_dec are 0.")
    encoder, bias = tensors["W_enc"], tensors["b_mag" if architecture == "gated" else "b_enc"]
    inside = architecture == "topk" and bool(config.get("rescale_acts_by_decoder_norm"))
    if inside:  # such an autoencoder chooses its k by rescaled codes
        encoder, bias = encoder * norms, bias * norms
    return SparseAutoencoder(
        architecture,
        encoder,
        bias,
        tensors["W_dec"] / norms[:, None],
        tensors["b_dec"],
        block,
        centred=bool(config.get("apply_b_dec_to_input", True)),
        k=_kept(config, folder) if architecture == "topk" else 0,
        threshold=tensors["threshold"] if architecture == "jumprelu" else None,
        gate=torch.stack([tensors["b_gate"], tensors["r_mag"]]) if architecture == "gated" else None,
        scale=None if inside else norms,
    )
