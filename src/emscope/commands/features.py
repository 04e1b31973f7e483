"""`emscope features`: what a run's direction is made of in the features of a sparse autoencoder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.features import FeaturesSettings, run_features
from emscope.pipeline.experiments.opening import open_run
from emscope.report.sections import experiment_file
from emscope.report.wording import ranged


@dataclass(frozen=True)
class Features:
    """Train or load a sparse autoencoder at one block and take the run's direction apart: one feature or many?

    Attributes:
        run: the folder of a finished run.
        settings: what is learned and asked.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional]
    settings: FeaturesSettings = field(default_factory=FeaturesSettings)

    def execute(self) -> int | None:
        """Find the features and print the main figures."""
        run_features(open_run(self.run), self.settings)
        terminal.write(headline(read_json(experiment_file(self.run, "features"))))
        terminal.write(f"\nOpen {self.run / 'report.html'}\n")
        return None


def headline(found: dict[str, Any]) -> str:
    """Return the main figures as a few lines of text."""
    quality, geometry = found["quality"]["heldout"], found["composition"]["geometry"]
    random = geometry["random, covariance of tokens"]["median"]
    lines = [
        "",
        f"block {found['block']}, {found['autoencoder']['n_features']} features: "
        f"{100 * quality['variance_explained']:.1f} % of held-out variance explained by "
        f"{quality['features_per_token']:.0f} features a token, {100 * quality['dead']:.0f} % dead",
    ]
    for name, loss in found["loss"].items():
        share = loss["recovered"]
        lines.append(f"loss recovered, {name:<12} {ranged(share)}")
    lines.append("\nfeatures          " + "".join(f"{n:>7}" for n in geometry["n"]))
    lines.append("cosine reached    " + "".join(f"{value:7.2f}" for value in geometry["direction"]))
    lines.append("random, like text " + "".join(f"{value:7.2f}" for value in random) + "\n")
    for item in found["features"]["listed"][:8]:
        words = " ".join(repr(word) for word in item["words"])
        lines.append(
            f"feature {item['feature']:<6} share {item['share']:6.3f}  cosine {item['cosine']:6.2f}  "
            f"change {item['change']:7.2f}  AUROC {item['heldout_auroc']:.2f}  {words}"
        )
    if found["ablation"]:
        lines.append(f"\non {found['ablation']['questions']} test questions{'':<30}alignment  coherence  restored")
        for name, item in found["ablation"]["changes"].items():
            restored = ranged(item["restored"]) if item["restored"] else ""
            means = [item[key]["value"] for key in ("aligned", "coherent")]
            lines.append(f"  {name:<50}" + "".join(f"{_number(mean):>10}" for mean in means) + f"  {restored}")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    return "n/a" if value is None else f"{value:.1f}"


COMMAND = Features
