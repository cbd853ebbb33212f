"""What an engine of TensorRT for RTX is built for, whatever GPU is here."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING

from clst_runtime.errors import ClstError

if TYPE_CHECKING:
    import tensorrt as trt

CAPABILITIES = ("8.6", "8.9", "12.0")
"""Compute capabilities, from the RTX 30 series on; docs/decisions/0031 has the reason."""


def aim(trt: ModuleType, config: trt.IBuilderConfig) -> None:
    """Have an engine built for `CAPABILITIES`, with all its memory given before it runs.

    Without a list one kind of machine code is made that is to serve all; without that memory no CUDA graph can be
    recorded of it.

    Raises:
        ClstError: it takes one of them not.
    """
    config.num_compute_capabilities = len(CAPABILITIES)
    for index, each in enumerate(CAPABILITIES):
        if not config.set_compute_capability(getattr(trt.ComputeCapability, f"SM{each.replace('.', '')}"), index):
            raise ClstError(f"TensorRT for RTX {trt.__version__} builds no engine for compute capability {each}")
    config.set_flag(trt.BuilderFlag.REQUIRE_USER_ALLOCATION)
