"""Everything on the tiny run, in one chain: each experiment has its figures and its section, and nothing is redone."""

from dataclasses import replace

import pytest

from emscope.experiments.adapters.measure import AdaptersSettings
from emscope.experiments.conduct import run_full
from emscope.experiments.dynamics.measure import DynamicsSettings
from emscope.experiments.features.measure import FeaturesSettings
from emscope.experiments.incontext.measure import InContextSettings
from emscope.experiments.induce.measure import InduceSettings
from emscope.experiments.monitor.measure import MonitorSettings
from emscope.experiments.steer.measure import SteerSettings
from emscope.experiments.sweep.measure import SweepSettings
from emscope.experiments.transfer.measure import TransferSettings
from emscope.experiments.voices.measure import VoicesSettings
from emscope.interventions.trained import VectorSettings
from emscope.organisms.bank import RECIPES, Recipe
from emscope.pipeline.config import load_config
from emscope.pipeline.stages import RunFolder
from emscope.residual.features.training import AutoencoderSettings
from emscope.residual.sweep import SweepOptions

EXPERIMENTS = {
    "sweep",
    "monitor",
    "steer",
    "induce",
    "features",
    "transfer",
    "dynamics",
    "adapters",
    "incontext",
    "voices",
}
SMALL = {
    "sweep": SweepSettings(options=SweepOptions(penalties=(10.0,), folds=2, halves=2, permutations=2), answers=1),
    "monitor": MonitorSettings(
        samples=1,
        tokens=(1,),
        random_directions=1,
        shares=(0.5,),
        draws=2,
        prompts=4,
        areas=2,
        own_answers=0,
        reader_answers=0,
    ),
    "steer": SteerSettings(
        (1,),
        together=False,
        coefficients=(-1.0, 1.0),
        levels=(1.0,),
        cap_widths=(1.0,),
        dial_questions=2,
        curve_questions=2,
        test_questions=3,
        kl_questions=2,
    ),
    "induce": InduceSettings(
        1, vector=VectorSettings(epochs=0.5), coefficients=(1.0,), dial_questions=2, test_questions=2, kl_questions=2
    ),
    "features": FeaturesSettings(
        2, tokens=2000, autoencoder=AutoencoderSettings(expansion=2, k=4, epochs=1, batch_size=256), top=12, questions=0
    ),
    "transfer": TransferSettings(("medical", "finance"), questions=2, block=2, strength=1.0),
    "voices": VoicesSettings(("medical",), seeds=1, questions=2, permutations=2),
    "dynamics": DynamicsSettings(
        seeds=(0,),
        epochs=1,
        batch_size=8,
        save_every=1,
        in_domain="cs2881",
        out_of_domain="open-ended",
        questions=2,
        max_new_tokens=4,
        heldout_rows=2,
        spans=(1,),
        scales=(1,),
        scaled_at=(1.0,),
    ),
    "incontext": InContextSettings(shots=(1, 2), questions=2, draws=1),
    "adapters": AdaptersSettings(
        recipes=("r4",), seeds=(0,), heldout_rows=1, top=2, texts=4, permutations=2, scalars=False
    ),
}


@pytest.fixture
def short_recipe(monkeypatch):
    monkeypatch.setitem(RECIPES, "r4", Recipe(8, replace(RECIPES["r4"].train, warmup=0.0)))


def test_the_chain_does_every_experiment_and_then_reuses_it(run, short_recipe):
    config = load_config(run / "config.yaml")
    run_full(config, RunFolder(run, config), SMALL)
    assert {path.stem for path in (run / "experiments").glob("*.json")} == EXPERIMENTS
    page = (run / "report.html").read_text(encoding="utf-8")
    assert {name for name in EXPERIMENTS if f' id="{name}"' in page} == EXPERIMENTS
    written = (run / "report.html").stat().st_mtime_ns
    again = RunFolder(run, config)
    run_full(config, again, SMALL)
    assert set(again.reused) == set(again.record.stages)
    assert (run / "report.html").stat().st_mtime_ns == written
