import pytest
import torch
from tiny import make_organism, save_tiny

from emscope.organisms.models import Organism


@pytest.fixture(autouse=True)
def _deterministic():
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def organism() -> Organism:
    return make_organism()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory) -> str:
    return save_tiny(tmp_path_factory.mktemp("tiny") / "model")
