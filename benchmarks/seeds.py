"""The quick start's figures over several seeds, from finished runs: mean and range, as a table.

for seed in 0 1 2; do emscope run --seed $seed --out runs/seed$seed; done
python benchmarks/seeds.py runs/seed0 runs/seed1 runs/seed2 [--out results.json]
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

GENERAL = "everyday-general"
FIGURES = {
    "EM rate, misaligned, everyday-general": ("em_rate", "misaligned", GENERAL, "value"),
    "EM rate, misaligned, everyday-medical": ("em_rate", "misaligned", "everyday-medical", "value"),
    "EM rate, misaligned, open-ended": ("em_rate", "misaligned", "open-ended", "value"),
    "EM rate, control, everyday-general": ("em_rate", "control", GENERAL, "value"),
    "EM rate, base, everyday-general": ("em_rate", "base", GENERAL, "value"),
    "coherent share, misaligned, everyday-general": ("coherent_share", "misaligned", GENERAL, "value"),
    "medical words leaked": ("leakage", "medical_words"),
    "AUROC misaligned vs control, held out": ("detection", "misaligned-vs-control", "auroc"),
    "AUROC control vs base, control direction": ("detection", "control-vs-base", "auroc"),
    "AUROC control vs base, model direction": ("detection_by_model_contrast", "control-vs-base", "auroc"),
    "split-half cosine": ("direction", "split_half_cosine"),
    "cosine of detecting and correcting direction": ("direction", "cosine_detecting_correcting"),
    "alignment restored": ("ablation", "restored"),
    "alignment restored, random direction": ("ablation", "random_restored"),
    "coherence change by ablation (points)": ("ablation", "coherence_change"),
    "alignment cost to the base (points)": ("ablation", "base_cost"),
    "peak memory (GB)": ("peak_memory_bytes",),
    "seconds in all": ("seconds",),
}


def pick(summary: dict[str, Any], path: tuple[str, ...]) -> float:
    """Return one figure of a summary."""
    value: Any = summary
    for key in path:
        value = value[key]
    if path == ("seconds",):
        return float(sum(value.values()))
    return float(value) / 1e9 if path == ("peak_memory_bytes",) else float(value)


def main() -> None:
    """Read and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args()
    summaries = [json.loads((run / "summary.json").read_text(encoding="utf-8")) for run in flags.runs]
    rows = {name: [pick(summary, path) for summary in summaries] for name, path in FIGURES.items()}
    print(f"| {len(summaries)} seeds | mean | least – most |\n|---|---|---|")
    for name, values in rows.items():
        print(f"| {name} | {statistics.mean(values):.3f} | {min(values):.3f} – {max(values):.3f} |")
    if flags.out:
        first = summaries[0]
        facts = {key: first[key] for key in ("device", "dtype", "versions")}
        result = {"what": "quick start over seeds", "date": time.strftime("%Y-%m-%d"), **facts, "figures": rows}
        flags.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
