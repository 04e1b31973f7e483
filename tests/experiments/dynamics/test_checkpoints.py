"""What every checkpoint is measured on."""

from emscope.experiments.dynamics import checkpoints
from emscope.organisms.chat import messages_of
from emscope.organisms.datasets import load_domain


def test_held_out_rows_of_one_topic_are_drawn_together():
    built_in = [load_domain("medical")[row] for row in (0, 1, -1)]
    rows = [messages_of(pair.prompt, pair.careless) for pair in built_in]
    topics = checkpoints._topics([*rows, messages_of("My own prompt", "and answer")])
    assert topics == [*(f"medical {pair.topic}" for pair in built_in), "row 3"]
