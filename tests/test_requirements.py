"""The pinned sets, and the audit of them: complete, hashed, in step with pyproject.toml, and honest without network."""

import ast
import json
import re
import subprocess
import sys
import threading
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from emscope.commands.doctor import OTHERS

ROOT = Path(__file__).parent.parent
PINS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def direct():
    extras = PROJECT["optional-dependencies"]
    return [Requirement(text) for text in [*PROJECT["dependencies"], *extras["judge"], *extras["dev"]]]


def pins(name):
    """Return {package: versions} of a set; one package has several where the Python version decides."""
    found = {}
    for file in (f"{name}.txt", f"torch-{name}.txt"):
        for package, version in re.findall(r"^([\w.-]+)==([^\s;\\]+)", (PINS / file).read_text(), re.MULTILINE):
            found.setdefault(package.lower(), []).append(Version(version))
    return found


@pytest.mark.parametrize("name", ["ci", "lowest"])
def test_every_dependency_is_pinned_within_its_bounds(name):
    found = pins(name)
    for requirement in direct():
        versions = found[requirement.name.lower()]
        assert all(version in requirement.specifier for version in versions), requirement


def test_the_lowest_set_is_the_floors():
    found = pins("lowest")
    floors = {
        requirement.name.lower(): Version(part.version)
        for requirement in direct()
        for part in requirement.specifier
        if part.operator == ">="
    }
    raised = {name for name, floor in floors.items() if min(found[name]).release[:2] != (*floor.release, 0)[:2]}
    assert raised == set()


@pytest.mark.parametrize("name", ["ci", "lowest"])
def test_everything_but_torch_is_pinned_by_hash_and_no_index_is_named(name):
    text = (PINS / f"{name}.txt").read_text()
    blocks = [block for block in re.split(r"\n(?=\S)", text) if not block.startswith("#")]
    assert len(blocks) > 50
    assert all("--hash=sha256:" in block for block in blocks)
    assert not re.search(r"^(torch|nvidia-|triton)|://|--(extra-)?index|--find-links| @ ", text, re.MULTILINE)


def imported(folder):
    """Return the packages of others that the files in a folder import, anywhere in them."""
    found = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    ours = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {path.name for path in (ROOT / "tests").rglob("*")}
    return found - set(sys.stdlib_module_names) - ours - {"emscope", "fuzz", "survive", "benchmarks", "examples"}


def declared(*extras):
    texts = list(PROJECT["dependencies"])
    for extra in extras:
        texts += PROJECT["optional-dependencies"][extra]
    return {canonicalize_name(Requirement(text).name) for text in texts}


@pytest.mark.parametrize(
    ("folder", "extras"),
    [("src", ("judge", "protected", "vllm", "lens", "inspect")), ("tests", ("dev", "inspect", "vllm", "lens"))],
)
def test_every_package_that_is_imported_is_declared(folder, extras):
    known = metadata.packages_distributions()
    missing = set()
    for name in imported(folder) - set(OTHERS):
        distributions = {canonicalize_name(distribution) for distribution in known.get(name, [name])}
        if not distributions & declared(*extras):
            missing.add(name)
    assert missing == set()


class Service(BaseHTTPRequestHandler):
    reply = b""

    def do_POST(self):
        names = [query["package"]["name"] for query in self._asked()]
        body = (
            self.reply
            or json.dumps(
                {"results": [{"vulns": [{"id": self.bad[name]}]} if name in self.bad else {} for name in names]}
            ).encode()
        )
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body)

    def _asked(self):
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))["queries"]

    def log_message(self, *words):
        pass


def audit(bad=None, reply=b"", there=True):
    handler = type("Handler", (Service,), {"bad": bad or {}, "reply": reply})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/v1/querybatch"
    if not there:
        server.shutdown()
        server.server_close()
    done = subprocess.run(
        [sys.executable, PINS / "audit.py"], capture_output=True, text=True, env={"EMSCOPE_OSV": address}
    )
    server.shutdown() if there else None
    server.server_close()
    return done.returncode, done.stdout + done.stderr


def test_an_audit_without_findings_says_how_many_packages_it_asked_for():
    code, said = audit()
    assert code == 0
    assert re.search(r"[1-9]\d\d packages checked, 0 open, 0 accepted", said)


def test_an_open_advisory_fails_the_audit_and_an_accepted_one_does_not():
    code, said = audit({"jinja2": "GHSA-x", "accelerate": "PYSEC-2026-3804"})
    assert code == 1
    assert re.search(r"jinja2 \S+: GHSA-x\n", said)
    assert "PYSEC-2026-3804 (accepted: " in said


@pytest.mark.parametrize("case", [{"there": False}, {"reply": b"<html>"}, {"reply": b'{"results": []}'}], ids=str)
def test_a_service_that_does_not_answer_is_no_clean_audit(case):
    code, said = audit(**case)
    assert code == 2
    assert "nothing was checked" in said
    assert "Traceback" not in said
