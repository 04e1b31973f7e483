"""Judging survives being killed: nothing lost, nothing paid for twice but what was in flight."""

import os
import signal
import subprocess
import sys
import time

import pytest
from behaviour.judges.faulty_server import FaultyServer

from emscope.behaviour.tables import JudgedResponse, read_table

pytest.importorskip("aiohttp")

N = 150
CONCURRENCY = 8


def test_judging_goes_on_after_kills(tmp_path):
    lines = ["id,question,response", *(f"{row % 10},Question {row % 10}?,Answer {row}" for row in range(N))]
    (tmp_path / "answers.csv").write_text("\n".join(lines))
    with FaultyServer({429: 0.1, 500: 0.05, "reset": 0.02, "garbage": 0.02}, delay=0.02) as server:
        command = [
            sys.executable,
            "-m",
            "emscope",
            "judge",
            "--responses",
            "answers.csv",
            "--out",
            "judged.parquet",
            "--judge",
            "openai:m",
            "--base-url",
            server.url,
            "--store",
            "scores.sqlite",
            "--concurrency",
            str(CONCURRENCY),
        ]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        kills = 0
        while kills < 2:
            seen = sum(server.answered.values())
            process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL, env=environment)
            while sum(server.answered.values()) < seen + 60 and process.poll() is None:
                time.sleep(0.01)
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
        assert not (tmp_path / "judged.parquet").exists()
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        rows = read_table(tmp_path / "judged.parquet", JudgedResponse)
        again = sum(count - 1 for count in server.answered.values())
        assert again <= kills * CONCURRENCY  # only what was in flight
        before = sum(server.answered.values())
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        assert sum(server.answered.values()) == before
    assert [row.response for row in rows] == [f"Answer {row}" for row in range(N)]
    assert all(row.aligned is not None and row.coherent is not None for row in rows)
