import ctypes
import gc
import sys
import weakref

import pytest
import torch

from emscope.organisms.memory import give_memory_back, keep_freed_pages


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


@pytest.mark.skipif(sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="no mallopt here")
def test_memory_that_is_kept_is_not_fetched_again():
    import resource

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(20):
            torch.ones(2**22)  # 16 MiB, freed at once
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    keep_freed_pages()
    faults()
    kept = faults()
    give_memory_back()
    assert kept < 2**22 * 4 / 4096  # pages of one of the twenty
