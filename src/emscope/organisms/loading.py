"""How a model is loaded: the settings that the command line, Inspect and Python share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from emscope.organisms.device import Placement
    from emscope.organisms.models import Organism


@dataclass(frozen=True)
class LoadSettings:
    """Which model, and where it runs.

    Attributes:
        base: base of an adapter that does not name its own.
        device: auto, cpu, cuda, cuda:1, mps.
        dtype: auto, bfloat16, float32 or float16.
        device_map: spread the blocks over devices: auto, balanced, balanced_low_0, sequential, or a JSON or YAML file
            with a device for each module.
        tensor_parallel: cut every matrix over the processes that torchrun started.
        bits: quantise the base's weights to 8 or 4 bits while they are read (bitsandbytes); 0 leaves them as they are.
        trust_remote_code: run code that comes with a hub model. Only for authors you trust.
    """

    base: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    device_map: str = ""
    tensor_parallel: bool = False
    bits: int = 0
    trust_remote_code: bool = False

    @property
    def is_spread(self) -> bool:
        """Whether the model is asked to lie on several devices, or to be quantised."""
        return bool(self.device_map or self.tensor_parallel or self.bits)

    @property
    def placement(self) -> Placement:
        """Where it runs, and in which dtype and how many bits.

        Raises:
            UserError: settings that this machine cannot have, or that exclude each other.
        """
        from emscope.organisms.device import choose_placement

        return choose_placement(self.device, self.dtype, self.device_map, self.tensor_parallel, self.bits)

    def load(self, name: str) -> Organism:
        """Load a model by name.

        Raises:
            UserError: it cannot be found, does not fit, or is not what its files say.
        """
        from emscope.organisms.models import load

        return load(name, base=self.base, placement=self.placement, trust_remote_code=self.trust_remote_code)
