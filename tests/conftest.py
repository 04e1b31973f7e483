import logging

import pytest
import torch
from tiny import make_organism, save_tiny
from tiny_run import finished, head, run  # noqa: F401 (fixtures of the tiny run)

from emscope import redaction
from emscope.organisms.models import Organism

THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True)
def _deterministic(request):
    torch.manual_seed(0)
    real = request.node.get_closest_marker("embedded") is not None
    torch.set_num_threads(THREADS if real else 1)  # tiny matrices gain nothing from more


@pytest.fixture(autouse=True)
def _no_secrets(monkeypatch):
    monkeypatch.setattr(redaction, "_secrets", set())  # a key of one test is a word in another


@pytest.fixture(autouse=True)
def _log_is_seen():
    logger = logging.getLogger("emscope")  # a command that ran in an earlier test keeps its lines to itself
    logger.propagate = True
    logger.handlers.clear()


@pytest.fixture(scope="session")
def organism() -> Organism:
    return make_organism()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")
