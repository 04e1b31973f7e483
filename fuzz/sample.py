"""A finished run of a tiny model, kept as one small file: every table and JSON file that the report shows.

`python -m fuzz.sample RUN` makes it anew from a run of any tiny model with all experiments done.
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("run.json.gz")
KEPT = (
    "summary.json",
    "detection.json",
    "ablation.json",
    "directions/stability.json",
    "experiments/*.json",
    "organisms/misaligned/*.json*",
    "organisms/control/*.json*",
    "judgements/*.parquet",
)
OTHER_STAGES = 3


def read_sample() -> dict[str, Any]:
    """Return the run's files by path: text of YAML and JSON Lines, values of JSON, rows of Parquet."""
    value: dict[str, Any] = json.loads(gzip.decompress(FILE.read_bytes()))
    return value


def write_sample(folder: Path) -> Path:
    """Write the run into a folder."""
    import pyarrow
    import pyarrow.parquet

    for name, content in read_sample().items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pyarrow.parquet.write_table(pyarrow.Table.from_pylist(content), path)
        else:
            text = content if isinstance(content, str) else json.dumps(content, indent=1)
            path.write_text(text, encoding="utf-8")
    return folder


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(part) for key, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _content(path: Path) -> Any:
    import pyarrow.parquet

    if path.suffix == ".parquet":
        return _rounded(pyarrow.parquet.read_table(path).to_pylist())
    text = path.read_text(encoding="utf-8")
    return _rounded(json.loads(text)) if path.suffix == ".json" else text


def main(run: Path) -> None:
    """Make the file from a run."""
    paths = sorted(path for pattern in KEPT for path in run.glob(pattern) if path.name != "adapter_config.json")
    files = {str(path.relative_to(run)): _content(path) for path in paths}
    files["config.yaml"] = (run / "config.yaml").read_text(encoding="utf-8")
    lineage = _content(run / "lineage.json")
    files["lineage.json"] = {**lineage, "stages": dict(list(lineage["stages"].items())[:OTHER_STAGES])}
    model = next(line.split(": ")[1] for line in files["config.yaml"].splitlines() if line.startswith("model: "))
    text = json.dumps(files, ensure_ascii=False).replace(str(run), "run").replace(model, "tiny")
    FILE.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
