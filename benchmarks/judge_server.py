"""What our side costs when a server judges, and whether anything is lost when it fails and we are killed.

`--mode instant`: judgements a second at concurrency 64 against a server on loopback that answers at once (two calls a
judgement). `--mode faulty`: 20 % 429, 5 % 500, 2 % resets, 2 % garbage, 1 % hangs, and the process is killed ten
times; every answer must end scored or with a reason, none lost, none twice.

    python benchmarks/judge_server.py --mode instant|faulty [--answers 2000] [--out FILE]
"""

from __future__ import annotations

import argparse
import asyncio
import collections
import json
import multiprocessing
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from publish import publish

from emscope.behaviour.judges.openai_judge import OpenAIJudge, ServerSettings
from emscope.behaviour.judges.rubrics import Rubrics
from emscope.behaviour.judges.store import ScoreStore
from emscope.behaviour.tables import JudgedResponse, read_table

FAULTS = {"429": 0.20, "500": 0.05, "reset": 0.02, "garbage": 0.02, "hang": 0.01}
HANG = 30.0


async def serve(port: multiprocessing.Queue[int], faults: dict[str, float], answered: MutableMapping[str, int]) -> None:
    """Answer chat completions with a score at once, or with the faults that are wished."""
    chooser = random.Random(0)
    top = [{"token": "85", "logprob": -0.2}, {"token": "90", "logprob": -1.8}]
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": "85"},
        "logprobs": {"content": [{"token": "85", "logprob": -0.2, "top_logprobs": top}]},
    }
    good = json.dumps({"id": "x", "object": "chat.completion", "model": "m", "choices": [choice]}).encode()

    def reply(code: int, body: bytes, extra: str = "") -> bytes:
        head = f"HTTP/1.1 {code} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n{extra}\r\n"
        return head.encode() + body

    async def client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
                body = await reader.readexactly(length)
                kind = next((name for name, share in faults.items() if chooser.random() < share), None)
                if kind == "reset":
                    writer.transport.abort()
                    return
                if kind == "hang":
                    await asyncio.sleep(HANG)
                if kind in ("429", "500"):
                    writer.write(reply(int(kind), b'{"error": {}}', "retry-after: 0.1\r\n" if kind == "429" else ""))
                elif kind == "garbage":
                    writer.write(reply(200, good[:40]))
                else:
                    if faults:
                        prompt = json.loads(body)["messages"][0]["content"]
                        answered[prompt] = answered.get(prompt, 0) + 1
                    writer.write(reply(200, good))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    server = await asyncio.start_server(client, "127.0.0.1", 0)
    port.put(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def server_process(
    port: multiprocessing.Queue[int], faults: dict[str, float], answered: MutableMapping[str, int]
) -> None:
    """Run the server until killed."""
    asyncio.run(serve(port, faults, answered))


def instant(url: str, n: int, folder: Path) -> dict[str, Any]:
    """Return judgements a second over three runs."""
    rates = []
    for run in range(3):
        with ScoreStore(folder / f"{run}.sqlite") as store:
            judge = OpenAIJudge("m", Rubrics(), store, ServerSettings(base_url=url, concurrency=64))
            started = time.perf_counter()
            found = judge.judge([f"Question {row % 50}?" for row in range(n)], [f"Answer {row}" for row in range(n)])
            rates.append(n / (time.perf_counter() - started))
            assert all(item.verdict == "scored" for item in found)
    return {"judgements_per_second": sorted(rates)[1], "range": [min(rates), max(rates)], "calls_per_judgement": 2}


def faulty(url: str, n: int, folder: Path, answered: MutableMapping[str, int]) -> dict[str, Any]:
    """Judge with ten kills and return what was lost and what was asked again."""
    lines = ["id,question,response", *(f"{row % 50},Question {row % 50}?,Answer {row}" for row in range(n))]
    (folder / "answers.csv").write_text("\n".join(lines), encoding="utf-8")
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
        url,
        "--store",
        "scores.sqlite",
        "--concurrency",
        "64",
        "--timeout",
        "3",
    ]
    chooser, started = random.Random(1), time.perf_counter()
    for kill in range(10):
        seen, wanted = len(answered), (kill + chooser.random()) * 2 * n / 11
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL)
        while len(answered) < max(wanted, seen + 1) and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    rows = read_table(folder / "judged.parquet", JudgedResponse)
    verdicts = collections.Counter("scored" if row.verdict == "scored" else "a reason" for row in rows)
    return {
        "rows": len(rows),
        "lost": n - len({row.response for row in rows}),
        "duplicates": len(rows) - len({row.response for row in rows}),
        "verdicts": dict(verdicts),
        "calls_answered_twice_because_in_flight_at_a_kill": sum(count - 1 for count in dict(answered).values()),
        "kills": 10,
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=["instant", "faulty"], required=True)
    parser.add_argument("--answers", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    with multiprocessing.Manager() as manager, tempfile.TemporaryDirectory() as scratch:
        answered: MutableMapping[str, int] = manager.dict()
        port: multiprocessing.Queue[int] = multiprocessing.Queue()
        faults = FAULTS if flags.mode == "faulty" else {}
        server = multiprocessing.Process(target=server_process, args=(port, faults, answered), daemon=True)
        server.start()
        url, folder = f"http://127.0.0.1:{port.get()}/v1", Path(scratch)
        if flags.mode == "instant":
            found = instant(url, flags.answers, folder)
        else:
            found = faulty(url, flags.answers, folder, answered)
        server.kill()
    what = f"judging by a server on loopback, {flags.mode}"
    publish({"what": what, "answers": flags.answers, **found}, flags.out)


if __name__ == "__main__":
    main()
