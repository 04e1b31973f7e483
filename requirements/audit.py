"""Asks OSV (osv.dev) which known vulnerabilities the pinned sets have: `make audit`, newest and lowest.

Exit code 0: none but the accepted ones (accepted.txt, each with its reason); 1: others; 2: the service did not answer.
Only names and versions of packages are sent.
"""

from __future__ import annotations

import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
SERVICE = "https://api.osv.dev/v1/querybatch"
SECONDS = 30
FILES = ("ci.txt", "torch-ci.txt", "lowest.txt", "torch-lowest.txt")
PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\]+)", re.MULTILINE)


def main() -> int:
    """Print what is found and return the exit code."""
    pins = sorted({pin for file in FILES for pin in PIN.findall((HERE / file).read_text(encoding="utf-8"))})
    service = os.environ.get("EMSCOPE_OSV", SERVICE)
    try:
        found = vulnerabilities(service, pins)
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = getattr(error, "reason", error)
        print(f"audit: {service} did not answer ({reason}): nothing was checked; run it with network.", file=sys.stderr)
        return 2

    accepted = dict(line.split(maxsplit=1) for line in _lines(HERE / "accepted.txt"))
    faults = [(name, version, key) for name, version, key in found if key not in accepted]
    for name, version, key in found:
        print(f"{name} {version}: {key}" + (f" (accepted: {accepted[key]})" if key in accepted else ""))
    print(f"{len(pins)} packages checked, {len(faults)} open, {len(found) - len(faults)} accepted")
    return 1 if faults else 0


def vulnerabilities(service: str, pins: list[tuple[str, str]]) -> list[tuple[str, str, str]]:
    """Return (package, version, advisory) for every known vulnerability of the pins.

    Raises:
        OSError: no answer.
        ValueError, KeyError, TypeError: an answer of another kind.
    """
    queries = [{"package": {"name": name, "ecosystem": "PyPI"}, "version": version} for name, version in pins]
    body = json.dumps({"queries": queries}).encode()
    request = urllib.request.Request(service, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=SECONDS) as reply:
        results = json.load(reply)["results"]
    if len(results) != len(pins):
        raise ValueError(f"{len(results)} answers to {len(pins)} questions")
    pairs = zip(pins, results, strict=True)
    return [(*pin, str(item["id"])) for pin, result in pairs for item in result.get("vulns", [])]


def _lines(file: Path) -> list[str]:
    lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("#")]


if __name__ == "__main__":
    sys.exit(main())
