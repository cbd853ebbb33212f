"""TensorRT for RTX, as the fake of TensorRT with what it has beside: GPUs to build for, and kernels that are kept.

`tests/vendor/tensorrt_api` compares its names with those of TensorRT for RTX 1.7.1. Neither fake loads the other's
engines.
"""

from __future__ import annotations

import json as _json

from tests.fakes import behaviour as _behaviour
from tests.fakes import tensorrt as _tensorrt
from tests.fakes.tensorrt import *  # noqa: F403

__version__ = "1.7.1.116"

_MAGIC = b"FAKE RTX PLAN\n"


class BuilderFlag(_tensorrt.BuilderFlag):
    REQUIRE_USER_ALLOCATION = _tensorrt._Member("REQUIRE_USER_ALLOCATION", 20)


class ComputeCapability:
    CURRENT = _tensorrt._Member("CURRENT", 1)
    SM80 = _tensorrt._Member("SM80", 80)
    SM86 = _tensorrt._Member("SM86", 86)
    SM89 = _tensorrt._Member("SM89", 89)
    SM120 = _tensorrt._Member("SM120", 120)


class IBuilderConfig(_tensorrt.IBuilderConfig):
    __slots__ = ("_capabilities", "_flags", "num_compute_capabilities")

    def __init__(self) -> None:
        super().__init__()
        self._capabilities, self._flags, self.num_compute_capabilities = [], [], 0

    def set_flag(self, flag):
        self._flags.append(flag.name)

    def set_compute_capability(self, compute_capability, index):
        assert index == len(self._capabilities) < self.num_compute_capabilities
        self._capabilities.append(compute_capability.name)
        return True

    def set_timing_cache(self, cache, ignore_mismatch):
        raise AssertionError("would ask for a GPU")


class Builder(_tensorrt.Builder):
    __slots__ = ()

    def create_builder_config(self):
        return IBuilderConfig()

    def build_serialized_network(self, network, config):
        plan = super().build_serialized_network(network, config)
        if plan is None:
            return None
        header = {"built for": config._capabilities, "flags": config._flags}
        return _tensorrt.IHostMemory(_MAGIC + _json.dumps(header).encode() + b"\n" + network._content)


class Runtime(_tensorrt.Runtime):
    __slots__ = ()

    def deserialize_cuda_engine(self, serialized_engine):
        _behaviour.current.calls.append("deserialise")
        content = bytes(serialized_engine)
        if not content.startswith(_MAGIC):
            _tensorrt._complain(self._logger, "ERROR", "header.magicTag == kEXPECTED_MAGIC_TAG failed")
            return None
        return ICudaEngine(content[len(_MAGIC) :].partition(b"\n")[2])


class IRuntimeCache:
    __slots__ = ("_content",)

    def __init__(self) -> None:
        self._content = b""

    def deserialize(self, blob):
        assert bytes(blob).startswith(b"KERNELS"), "a damaged cache was handed over"
        if _behaviour.current.takes_kernels:
            self._content = bytes(blob)
        return _behaviour.current.takes_kernels

    def serialize(self):
        return _tensorrt.IHostMemory(self._content)


class IRuntimeConfig:
    __slots__ = ("_cache",)

    def create_runtime_cache(self):
        return IRuntimeCache()

    def set_runtime_cache(self, cache):
        self._cache = cache
        return True


class ICudaEngine(_tensorrt.ICudaEngine):
    __slots__ = ()

    def create_runtime_config(self):
        return IRuntimeConfig()

    def create_execution_context(self, runtime_config):
        if not runtime_config._cache._content:
            _behaviour.current.calls.append("compile")
            runtime_config._cache._content = b"KERNELS"
        return super().create_execution_context()
