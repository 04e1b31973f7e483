import gc
import weakref

from emscope.organisms.memory import give_memory_back


class Cycle:
    def __init__(self):
        self.own = self


def test_what_only_a_cycle_holds_is_freed():
    gc.disable()
    try:
        held = weakref.ref(Cycle())
        assert held() is not None
        give_memory_back()
        assert held() is None
    finally:
        gc.enable()
