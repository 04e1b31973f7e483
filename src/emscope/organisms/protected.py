"""The papers' protected archives (.zip.enc): opened for one run, with their terms shown and accepted, never copied.

The archive is decrypted by `easy-dataset-share` in a temporary folder that is gone when the data are in memory. The
password comes from the authors' page; emscope asks for it, or reads EMSCOPE_ARCHIVE_PASSWORD.
"""

from __future__ import annotations

import fnmatch
import getpass
import logging
import os
import shutil
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from emscope.errors import UserError, missing_extra
from emscope.redaction import keep_secret

logger = logging.getLogger(__name__)

SUFFIX = ".zip.enc"
CANARY_FILES = "dataset_entry_*.jsonl"
PASSWORD_VARIABLE = "EMSCOPE_ARCHIVE_PASSWORD"
MAX_BYTES = 2 << 30


@dataclass(frozen=True)
class OpenedArchive:
    """One data file of an archive, in a folder that will vanish, and the terms that came with it."""

    data: Path
    terms: str


def is_archive(name: str) -> bool:
    """Say whether a data name means a protected archive: FILE.zip.enc, or FILE.zip.enc:MEMBER.jsonl."""
    return name.split(":")[0].endswith(SUFFIX)


@contextmanager
def opened_archive(name: str, *, accept_terms: bool) -> Iterator[OpenedArchive]:
    """Decrypt FILE.zip.enc or FILE.zip.enc:MEMBER.jsonl for the length of a context.

    Raises:
        UserError: no such file or member, a wrong password, terms that are not accepted, or the extra is missing.
    """
    file, _, member = name.partition(":")
    path = Path(file).expanduser()
    if not path.is_file():
        raise UserError(f"There is no archive {path}.")
    with tempfile.TemporaryDirectory(prefix="emscope-") as scratch:
        plain = _decrypt(path, Path(scratch))
        try:
            with zipfile.ZipFile(plain) as archive:
                terms = _terms(archive)
                if not accept_terms:
                    raise UserError(
                        f"{path.name} comes with terms:\n\n{terms}\n\nRead them; if you accept, give --accept-terms."
                    )
                data = _extract(archive, _choose(archive, member), Path(scratch))
        except (zipfile.BadZipFile, UnicodeDecodeError) as error:
            raise UserError(f"{path} is damaged inside ({error}): fetch it again.") from error
        logger.info("the terms of %s were accepted; they are kept in the lineage", path.name)
        yield OpenedArchive(data, terms)


def _decrypt(path: Path, scratch: Path) -> Path:
    try:
        from easy_dataset_share import zipping
    except ImportError as error:
        raise missing_extra("easy-dataset-share", "protected") from error
    password = os.environ.get(PASSWORD_VARIABLE)
    if password is None:
        if not sys.stdin.isatty():
            raise UserError(f"{path.name} needs its password: set {PASSWORD_VARIABLE}.")
        password = getpass.getpass(f"Password of {path.name}: ")
    keep_secret(password)
    copy = scratch / "archive"
    shutil.copyfile(path, copy)
    try:
        zipping.decrypt_file(str(copy), password)
    except ValueError as error:
        raise UserError(f"{path} cannot be decrypted: the password is wrong or the file is damaged.") from error
    return scratch / "archive.dec"


def _terms(archive: zipfile.ZipFile) -> str:
    for name in archive.namelist():
        if PurePosixPath(name).name.lower() in ("tos.txt", "terms.txt", "license", "license.txt"):
            return archive.read(name).decode("utf-8")
    return "No terms file is inside; the terms on the authors' page hold."


def _choose(archive: zipfile.ZipFile, member: str) -> str:
    """Return the data file that is meant; canary files are none."""
    files = [name for name in archive.namelist() if name.endswith((".jsonl", ".csv", ".parquet"))]
    files = [name for name in files if not fnmatch.fnmatch(PurePosixPath(name).name, CANARY_FILES)]
    matching = [name for name in files if not member or member in (name, PurePosixPath(name).name)]
    if len(matching) != 1:
        listed = ", ".join(PurePosixPath(name).name for name in files) or "none"
        raise UserError(f"Say which file of the archive you mean, as ARCHIVE{SUFFIX}:FILE; it holds {listed}.")
    return matching[0]


def _extract(archive: zipfile.ZipFile, name: str, folder: Path) -> Path:
    """Write one member under a name of ours, so that paths inside the archive cannot lead outside the folder."""
    if archive.getinfo(name).file_size > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES >> 30} GiB unpacked; that is no training set.")
    target = folder / f"data{PurePosixPath(name).suffix}"
    with archive.open(name) as source, target.open("wb") as sink:
        shutil.copyfileobj(source, sink)
    return target
