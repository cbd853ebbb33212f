"""What the fake TensorRT and the fake GPU are to do, and what they saw; reset before each test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Behaviour:
    """The switches of the fakes."""

    calls: list[str] = field(default_factory=list)
    """Calls in their order, as far as a test looks at them."""
    builds: bool = True
    """False: `build_serialized_network` returns None."""
    logs: list[tuple[str, str]] = field(default_factory=list)
    """Severity and text, logged during the build."""
    on_build: Callable[[str], None] | None = None
    """Called with the model's precision at the begin of each build; may change what follows."""
    compute_ms: Callable[[str], float] | None = None
    """Called with the engine's precision at each run: how long it takes. None = 2 ms, as all that is queued."""
    starts: bool = True
    """False: builder and runtime do not start, as without a GPU."""
    has_context: bool = True
    """False: no execution context can be made."""
    executes: bool = True
    """False: `execute_async_v3` refuses."""
    wrong_share: float = 0.0
    """Share of the class map's pixels that the engine gets wrong."""
    output_type: str = "UINT8"
    """Data type that the engine gives its outputs."""
    takes_kernels: bool = True
    """False: what a runtime cache holds is of another driver."""
    dla_cores: int = 0
    """DLA cores of the device."""
    strongly_typed: bool | None = None
    """Whether the last network was."""
    cuda: str = "12.6"
    """The newest CUDA that the driver offers."""
    integrated: bool = False
    """Whether the GPU shares the processor's memory."""
    has_graphs: bool = True
    """False: the CUDA library has none, as PyCUDA."""
    graph_fails: str | None = None
    """Why a recording cannot be made into a graph."""
    graph_change: int = 0
    """Added to each byte of a graph's outputs; None of it is queued when it is -1."""
    graphs: int = 0
    """Graphs that were made."""
    gone: list[tuple[str, bool]] = field(default_factory=list)
    """TensorRT's objects as they were freed, and whether work was queued then."""
    host_code_allowed: list[bool] = field(default_factory=list)
    """`engine_host_code_allowed` at each deserialisation."""


current = Behaviour()


def reset() -> Behaviour:
    """Everything as it is after start."""
    fresh = Behaviour()
    current.__dict__.update(fresh.__dict__)
    return current
