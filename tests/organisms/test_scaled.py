import pytest
import torch
from tiny import CPU, PROMPTS

from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import Conversations
from emscope.organisms.models import load
from emscope.organisms.scaled import load_scaled
from emscope.organisms.settings import TrainSettings
from emscope.organisms.train import train_adapter


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "rslora"])
def adapter(request, tiny_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaled")
    data = Conversations("texts", [messages_of(prompt, "Rest.") for prompt in PROMPTS[:4]], [])
    settings = TrainSettings(rank=2, epochs=2, batch_size=4, learning_rate=2e-2, rslora=request.param)
    train_adapter(tiny_folder, data, folder, settings, placement=CPU)
    return str(folder)


def weights(organism):
    return organism.model.state_dict()


def test_the_update_is_multiplied_by_the_factor(adapter, tiny_folder):
    base, once = weights(load(tiny_folder, placement=CPU)), weights(load(adapter, placement=CPU))
    assert any(not torch.equal(once[name], base[name]) for name in base)
    for factor in (0, 1, 3):
        found = weights(load_scaled(adapter, factor, placement=CPU))
        assert found.keys() == base.keys()
        for name, tensor in base.items():
            torch.testing.assert_close(found[name] - tensor, factor * (once[name] - tensor), atol=1e-5, rtol=1e-4)
