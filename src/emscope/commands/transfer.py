"""`emscope transfer`: does one organism's direction detect and correct organisms of other domains and seeds?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import tyro

from emscope import terminal
from emscope.commands.common import GOES_ON
from emscope.outside import read_json
from emscope.pipeline.experiments.opening import open_run
from emscope.pipeline.experiments.transfer import COSINE_BAR, TransferSettings, run_transfer
from emscope.report.sections import experiment_file
from emscope.report.wording import number, percent, ranged


@dataclass(frozen=True)
class Transfer:
    """Train organisms on several domains, and try each one's direction on every other; what is done is reused.

    Attributes:
        run: the folder of a finished run; its own pair of organisms is one of those compared.
        domains: built-in domains: medical, finance, sport.
        seeds: pairs of organisms of each domain; two or three for angles between seeds, at about three minutes a pair
            on two CPU cores.
        questions: test questions on which each ablation is measured.
        block: block at which directions are subtracted; by default where the run's own ablation subtracts.
        strength: how many times a direction is subtracted; by default what the run's own ablation chose.
        own_domain: what the run's own data are about (medical, finance, sport or another word), where they are not
            built in; not said, its pair counts neither as the same nor as another domain.
        organisms: pairs of your own, each as name=misaligned,control: data files, or folders or hub ids of adapters or
            whole models; the name says what they are about. Without a control the run's own takes its place.
    """

    stopped: ClassVar[str] = GOES_ON

    run: Annotated[Path, tyro.conf.Positional] = Path("runs/quickstart")
    domains: tuple[str, ...] = TransferSettings.domains
    seeds: int = TransferSettings.seeds
    questions: int = TransferSettings.questions
    block: int | None = None
    strength: float | None = None
    own_domain: str = TransferSettings.own_domain
    organisms: tuple[str, ...] = ()

    def execute(self) -> int | None:
        """Do it and print the figures."""
        lab = open_run(self.run)
        settings = TransferSettings(
            self.domains, self.seeds, self.questions, self.block, self.strength, self.own_domain, self.organisms
        )
        run_transfer(lab, settings)
        terminal.write(table(read_json(experiment_file(self.run, "transfer"))))
        terminal.write(f"\nOpen {self.run / 'report.html'}\n")
        return None


def table(found: dict[str, Any]) -> str:
    """Return the findings as a few lines of text."""
    detection, ablation = found["detection"]["summary"], found["ablation"]["summary"]
    titles = f"{'restored':>22}{'least':>9}{'EM before':>11}{'after':>8}{'coherence':>11}"
    lines = ["", f"{'direction on':<22}{'AUROC mean':>12}{'least':>9}{titles}"]
    for kind in dict.fromkeys([*detection, *ablation]):
        seen, mended = detection.get(kind), ablation.get(kind)
        cells = [f"{seen['mean']:>12.3f}{seen['least']:>9.3f}" if seen else f"{'–':>12}{'–':>9}"]
        if mended:
            cells.append(f"{ranged(mended['restored']):>22}{percent(mended['least']):>9}")
            cells.append(f"{percent(mended['em_before']['value']):>11}{percent(mended['em_after']['value']):>8}")
            cells.append(f"{number(mended['coherence_change'], '+.1f'):>11}")
        lines.append(f"{kind:<22}" + "".join(cells))
    for pooling, label in (("response", "answers"), ("last", "last token")):
        for kind in ("same_domain", "other_domains"):
            values = found["geometry"][pooling][kind]
            if values is not None:
                above = sum(value > COSINE_BAR for value in values)
                lines.append(
                    f"cosine, {label}, {kind.replace('_', ' ')}: mean {sum(values) / len(values):.2f}, "
                    f"least {min(values):.2f}, above {COSINE_BAR} at {above} of {len(values)} blocks"
                )
    return "\n".join(lines) + "\n"


COMMAND = Transfer
