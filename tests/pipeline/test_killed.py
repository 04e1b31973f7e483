"""A training that is killed at any moment ends in the bytes of one that is not."""

import json
import os
import subprocess
import sys
from pathlib import Path

KILLING = Path(__file__).parent.parent / "killing.py"


def test_killed_trainings_end_in_the_same_bytes(tiny_folder, tmp_path):
    """A few moments of some 250, chosen by a seed; `killing.py OUT BASE all` tries them all."""
    command = [sys.executable, str(KILLING), str(tmp_path / "out"), tiny_folder, "3"]
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    assert ended.returncode == 0, ended.stderr
    kills = [json.loads(line) for line in ended.stdout.splitlines() if line.startswith("{")]
    assert len(kills) == 3
    for kill in kills:
        assert (kill["killed"], kill["again"], kill["differ"], kill["left"]) == (9, 0, [], False), kill
