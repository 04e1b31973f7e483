"""Tries what `make dist` has built: the wheel alone in a fresh environment, and what the source distribution holds.

try_dist.py FOLDER [--pip-option …]: the wheel is installed with pip, `emscope doctor` and a whole run on a tiny random
model that is made here follow, and the source distribution must hold every file of tests that the repository has.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent
WITH_TESTS = ("tests", "fuzz", "survive", "benchmarks", "requirements")
TINY = """
import sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tiny import save_tiny
save_tiny(Path(sys.argv[2]))
"""


def main() -> None:
    """Try both."""
    folder, *options = sys.argv[1:]
    (wheel,), (source,) = Path(folder).glob("*.whl"), Path(folder).glob("*.tar.gz")
    try_source(source)
    with tempfile.TemporaryDirectory() as scratch:
        try_wheel(wheel.resolve(), Path(scratch), options)


def try_source(source: Path) -> None:
    """See that the source distribution holds what the tests need."""
    with tarfile.open(source) as archive:
        held = {name.partition("/")[2] for name in archive.getnames()}
    missing = [name for name in tracked() if name.startswith(WITH_TESTS) and name not in held]
    if missing:
        sys.exit(f"{source.name} lacks {len(missing)} files, {missing[0]} among them")
    print(f"{source.name}: {len(held)} files, with all that tests need")


def tracked() -> list[str]:
    """Return the files of the repository."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def try_wheel(wheel: Path, scratch: Path, options: list[str]) -> None:
    """Install the wheel alone, and have the command do a whole tiny run."""
    venv.create(scratch / "env", with_pip=True)
    binaries = scratch / "env" / ("Scripts" if sys.platform == "win32" else "bin")
    python, emscope = str(binaries / "python"), str(binaries / "emscope")
    run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *options, str(wheel)], scratch)
    run([python, "-m", "pip", "check"], scratch)

    doctor = json.loads(run([emscope, "doctor", "--json"], scratch))
    print(f"{wheel.name}: {doctor['result']['versions']['emscope']}, {doctor['result']['device']}")

    run([python, "-c", TINY, str(ROOT / "tests"), str(scratch / "tiny")], scratch)
    small = ["model=tiny", "question_sets=[open-ended, cs2881]", "rows=16", "train.epochs=1", "dev_questions=4"]
    words = []
    for setting in [*small, "sampling.max_new_tokens=8"]:
        words += ["--set", setting]
    done = json.loads(run([emscope, "run", "--judge", "mock", "--out", "run", *words, "--json"], scratch))
    page = Path(scratch, done["files"][0])
    if not page.is_file():
        sys.exit(f"{wheel.name}: the run wrote no {page.name}")
    print(f"{wheel.name}: a tiny run made {len(done['result']['made'])} stages and {page.name}")


def run(command: list[str], folder: Path) -> str:
    """Run a command in a folder and return what it printed; ends here with its words where it fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command[:4])} … failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done.stdout


if __name__ == "__main__":
    main()
