"""The quick start's figures over several seeds, from finished runs: mean and range, as a table.

emscope run --seeds 0 1 2 --out runs/quickstart
python benchmarks/seeds.py runs/quickstart/seed0 runs/quickstart/seed1 runs/quickstart/seed2 [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from emscope.experiments.seeds import SeedsResult, over_seeds, table_of_seeds


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in flags.runs]
    figures = over_seeds(summaries)
    names = tuple(run.name for run in flags.runs)
    print(table_of_seeds(SeedsResult(tuple(range(len(names))), names, 0, 0, figures)))
    if flags.out:
        first = summaries[0]
        facts = {key: first[key] for key in ("device", "dtype", "versions")}
        result = {
            "what": "quick start over seeds",
            "date": time.strftime("%Y-%m-%d"),
            **facts,
            "figures": {name: list(figure.values) for name, figure in figures.items()},
        }
        flags.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
