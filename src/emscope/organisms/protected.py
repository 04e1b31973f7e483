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

from emscope.errors import OutsideError, UserError, missing_extra
from emscope.outside import reading
from emscope.redaction import keep_secret
from emscope.terminal import one_line

logger = logging.getLogger(__name__)

SUFFIX = ".zip.enc"
CANARY_FILES = "dataset_entry_*.jsonl"
PASSWORD_VARIABLE = "EMSCOPE_ARCHIVE_PASSWORD"
MAX_BYTES = 2 << 30
MAX_TERMS_BYTES = 1 << 20
MAX_DIRECTORY_BYTES = 16 << 20
END_RECORD = 22
"""Bytes of the record at the end of a zip, which says how large its list of members is."""
MOST_LISTED = 20
REMEDY = "fetch it again"


class TermsError(UserError):
    """Terms are to be read and accepted; they are shown whole."""

    longest = MAX_TERMS_BYTES


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
        opened = read_members(plain, path, member, Path(scratch), accept_terms=accept_terms)
        logger.info("the terms of %s were accepted; they are kept in the lineage", path.name)
        yield opened


def read_members(plain: Path, path: Path, member: str, folder: Path, *, accept_terms: bool) -> OpenedArchive:
    """Return the terms in a zip, and the data file that is meant, written into a folder.

    What is read is bounded as it is read: sizes that a zip declares are its author's word. `path` is what messages call
    the archive.

    Raises:
        UserError: terms that are not accepted, no such member, a member that is encrypted, damaged or too large.
    """
    _check_directory(plain, path)
    with reading(path, "a whole archive", REMEDY), zipfile.ZipFile(plain) as archive:
        terms = _terms(archive, path)
        if not accept_terms:
            raise TermsError(
                f"{path.name} comes with terms:\n\n{terms}\n\nRead them; if you accept, give --accept-terms."
            )
        data = _extract(archive, _choose(archive, member, path), folder, path)
    return OpenedArchive(data, terms)


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


def _check_directory(plain: Path, path: Path) -> None:
    """Refuse a zip whose list of members is long.

    Raises:
        OutsideError: it is.
    """
    tail = _read_tail(plain, END_RECORD + 65_535)  # a comment of at most that follows the record
    place = tail.rfind(b"PK\x05\x06")
    size = int.from_bytes(tail[place + 12 : place + 16], "little") if place >= 0 else 0
    if size > MAX_DIRECTORY_BYTES:
        raise OutsideError(path, "lists more members than any training set has", REMEDY)


def _read_tail(path: Path, most: int) -> bytes:
    """Return a file's last bytes, at most so many."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - most))
        return file.read(most)


def _terms(archive: zipfile.ZipFile, path: Path) -> str:
    for name in archive.namelist():
        if PurePosixPath(name).name.lower() in ("tos.txt", "terms.txt", "license", "license.txt"):
            with archive.open(name) as source:
                terms = source.read(MAX_TERMS_BYTES + 1)
            if len(terms) > MAX_TERMS_BYTES:
                raise OutsideError(path, f"has terms of more than {MAX_TERMS_BYTES >> 10} KiB", REMEDY)
            return terms.decode("utf-8")
    return "No terms file is inside; the terms on the authors' page hold."


def _choose(archive: zipfile.ZipFile, member: str, path: Path) -> str:
    """Return the data file that is meant; canary files are none."""
    files = [name for name in archive.namelist() if name.endswith((".jsonl", ".csv", ".parquet"))]
    files = [name for name in files if not fnmatch.fnmatch(PurePosixPath(name).name, CANARY_FILES)]
    matching = [name for name in files if not member or member in (name, PurePosixPath(name).name)]
    if len(matching) != 1:
        listed = ", ".join(one_line(PurePosixPath(name).name)[:80] for name in files[:MOST_LISTED]) or "none"
        more = f" and {len(files) - MOST_LISTED} more" if len(files) > MOST_LISTED else ""
        raise UserError(
            f"Say which file of the archive {path} you mean, as ARCHIVE{SUFFIX}:FILE; it holds {listed}{more}."
        )
    return matching[0]


def _extract(archive: zipfile.ZipFile, name: str, folder: Path, path: Path) -> Path:
    """Write one member under a name of ours, so that paths inside the archive cannot lead outside the folder."""
    target, n_bytes = folder / f"data{PurePosixPath(name).suffix}", 0
    with archive.open(name) as source, target.open("wb") as sink:
        while chunk := source.read(1 << 20):
            n_bytes += len(chunk)
            if n_bytes > MAX_BYTES:
                what = f"{one_line(PurePosixPath(name).name)[:80]} is larger than {MAX_BYTES >> 30} GiB unpacked"
                raise UserError(f"{path}: {what}; that is no training set.")
            sink.write(chunk)
    return target
