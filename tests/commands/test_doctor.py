"""`emscope doctor` on machines that differ."""

import torch

from emscope.commands import doctor
from emscope.commands.main import run_command
from emscope.organisms.device import Placement


def test_it_names_every_extra_of_the_package(capsys, monkeypatch):
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert set(doctor.EXTRAS) == set(project["optional-dependencies"])
    monkeypatch.setattr(doctor, "_hub_state", lambda: "not asked")
    monkeypatch.setattr(doctor, "embedded_state", lambda: "not asked")
    monkeypatch.setattr(doctor, "choose_placement", lambda: Placement("cpu", torch.float16, "an old card"))
    monkeypatch.setitem(doctor.OTHERS, "no_such_module", "a test")
    assert run_command(["doctor"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in ("extra [inspect]", "bitsandbytes", "only needed for a test", "training in float32"):
        assert words in said
