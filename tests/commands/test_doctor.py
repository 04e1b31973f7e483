"""`emscope doctor` on machines that differ."""

from importlib import metadata

import torch

from emscope.commands import doctor
from emscope.commands.main import run_command
from emscope.organisms.device import Placement


def test_it_names_every_extra_of_the_package_and_the_packages_that_are_missing(capsys, monkeypatch):
    monkeypatch.setattr(doctor, "_hub_state", lambda: "not asked")
    monkeypatch.setattr(doctor, "embedded_state", lambda: "not asked")
    monkeypatch.setattr(doctor, "choose_placement", lambda: Placement("cpu", torch.float16, "an old card"))
    monkeypatch.setitem(doctor.OTHERS, "no-such-package", "a test")
    declared = [
        "numpy>=2",
        'no-such-thing>=1; extra == "stars"',
        'numpy>=2; extra == "stars"',
        'numpy>=2; python_version > "3"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: declared)
    monkeypatch.setattr(doctor, "_extra_names", lambda: ["stars", "empty"])
    assert doctor.extras() == {"stars": ["no-such-thing", "numpy"], "empty": []}

    assert run_command(["doctor"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    for words in (
        "extra [stars] missing no-such-thing: pip install 'emscope[stars]'",
        "bitsandbytes",
        "only needed for a test",
        "training in float32",
        "Nothing was written.",
    ):
        assert words in said


def test_the_extras_are_those_that_the_installed_package_declares():
    extras = doctor.extras()
    assert {"judge", "inspect", "dev"} <= set(extras)
    assert "pytest" in extras["dev"]
    assert "torch" not in {package for packages in extras.values() for package in packages}
