"""How an engine is run on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clst_runtime.backends.cuda.device import AUTO, CUDA_PYTHON, check_library
from clst_runtime.errors import ConfigError, did_you_mean

COPY, MAPPED = IO_NAMES = ("copy", "mapped")


@dataclass(frozen=True, kw_only=True)
class GpuOptions:
    """How frames reach an engine, and how its work is queued.

    Raises:
        ConfigError: an unknown name, or a graph by a library that has none.
    """

    io: str = AUTO
    """`copy`: pinned buffers, copied to and from the GPU's memory. `mapped`: the GPU reads frames and writes class ids
    in the processor's memory. `auto`: mapped where both share one memory (a Jetson), else copy."""
    graph: bool = False
    """Record the engine's work once as a CUDA graph and launch that for each frame; needs cuda-python."""
    cuda: str = AUTO
    """The library that calls the driver: `pycuda`, `cuda-python`, or whichever is there."""

    def __post_init__(self) -> None:
        if self.io not in (AUTO, *IO_NAMES):
            raise ConfigError(f"I/O mode {self.io!r} is not known; {did_you_mean(self.io, (AUTO, *IO_NAMES))}")
        check_library(self.cuda, graphs=self.graph)

    def without_graph(self) -> GpuOptions:
        """The same I/O by the same library, as an engine is built, proven and timed by stages."""
        return replace(self, graph=False, cuda=CUDA_PYTHON if self.graph else self.cuda)
