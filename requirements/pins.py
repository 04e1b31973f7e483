"""Makes the pinned sets, each file with the hashes of all its builds: newest, lowest, and what builds the site.

They are ci.txt, lowest.txt and docs.txt.

torch is pinned by version alone (torch-*.txt): an index may offer builds of its own for one version (2.13.0+cpu beside
2.13.0), whose hashes differ, and the right one depends on the machine. What only torch's CUDA builds need goes with
it. Run by `make pins`, which brings uv.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SETS = {"ci": "highest", "lowest": "lowest-direct"}
WITH_TORCH = re.compile(r"^(torch|triton|nvidia-|cuda-)")
COMPILE = ("uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--universal", "--generate-hashes")
PYTHON = ("--python-version", "3.11")
DOCS_HEAD = "# Made by `make pins` from docs.in. Install: pip install --no-deps --require-hashes -r {file}.\n"
HEAD = "# Made by `make pins`. Install: pip install --no-deps --require-hashes -r {file}, then -r {torch}.\n"


def main() -> None:
    """Write all files."""
    for name, resolution in SETS.items():
        wanted = ["--extra", "dev", "--extra", "judge", "--resolution", resolution, "pyproject.toml"]
        write_set(name, resolved(name, wanted))
    docs = resolved("docs", ["requirements/docs.in"])
    (HERE / "docs.txt").write_text(DOCS_HEAD.format(file="requirements/docs.txt") + docs, encoding="utf-8")
    print(f"docs.txt: {docs.count('==')} packages")


def resolved(name: str, wanted: list[str]) -> str:
    """Return a set as uv resolves it."""
    command = [sys.executable, "-m", *COMPILE, *PYTHON, *wanted]
    result = subprocess.run(command, capture_output=True, text=True, cwd=HERE.parent)
    if result.returncode:
        sys.exit(f"uv cannot resolve the {name} set: {result.stderr.strip()}")
    return result.stdout


def write_set(name: str, resolved: str) -> None:
    """Write a set's hashed file, without torch, and torch's own line."""
    blocks = re.split(r"\n(?=\S)", resolved.strip())
    kept = [block for block in blocks if not WITH_TORCH.match(block)]
    torch = next(block.split()[0] for block in blocks if block.startswith("torch=="))
    file, torch_file = HERE / f"{name}.txt", HERE / f"torch-{name}.txt"
    head = HEAD.format(file=f"requirements/{file.name}", torch=f"requirements/{torch_file.name}")
    file.write_text(head + "\n".join(kept) + "\n", encoding="utf-8")
    torch_file.write_text(f"# Made by `make pins`.\n{torch}\n", encoding="utf-8")
    print(f"{file.name}: {len(kept)} packages and {torch}")


if __name__ == "__main__":
    main()
