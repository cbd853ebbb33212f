"""A TensorRT whose engines are computed by ONNX Runtime: real results, no GPU.

It is for running engines. Its builder only hands the graph on, and fails as one does on a GPU that is full or broken;
what a builder really does is tested on NVIDIA's own (backends/tensorrt/rtx/library.py).

Only names of the real bindings are public here; `tests/vendor/tensorrt_api` compares each of them, its members and its
parameters with TensorRT 10.3.0, 10.16.1 and 11.4.0. What it does is told by `tests/fakes/behaviour.py`.
"""

from __future__ import annotations

import json as _json

import numpy as _np

from tests.fakes import behaviour as _behaviour
from tests.fakes import cuda as _cuda

__version__ = "10.3.0"

_MAGIC = b"FAKE PLAN\n"
_TYPES = {"tensor(uint8)": "UINT8", "tensor(float)": "FLOAT", "tensor(int64)": "INT64"}


class _Member:
    """A value of one of TensorRT's enumerations."""

    def __init__(self, name: str, value: int) -> None:
        self.name, self.value = name, value

    def __int__(self) -> int:
        if self.name == "STRONGLY_TYPED":
            return 0 if __version__.startswith("11") else 1
        return self.value

    def __repr__(self) -> str:
        return f"<{self.name}>"


def _members(names: str) -> dict[str, _Member]:
    return {name: _Member(name, value) for value, name in enumerate(names.split())}


class NetworkDefinitionCreationFlag:
    STRONGLY_TYPED = _Member("STRONGLY_TYPED", 0)


class MemoryPoolType:
    WORKSPACE = _Member("WORKSPACE", 0)


class ProfilingVerbosity:
    DETAILED = _Member("DETAILED", 2)


class BuilderFlag:
    GPU_FALLBACK = _Member("GPU_FALLBACK", 3)
    TF32 = _Member("TF32", 6)


class DeviceType:
    GPU = _Member("GPU", 0)
    DLA = _Member("DLA", 1)


class TensorIOMode:
    INPUT = _Member("INPUT", 1)
    OUTPUT = _Member("OUTPUT", 2)


class LayerInformationFormat:
    JSON = _Member("JSON", 1)


class DataType:
    FLOAT = _Member("FLOAT", 0)
    UINT8 = _Member("UINT8", 5)
    INT32 = _Member("INT32", 3)
    INT64 = _Member("INT64", 8)


class ILogger:
    class Severity:
        INTERNAL_ERROR = _Member("INTERNAL_ERROR", 0)
        ERROR = _Member("ERROR", 1)
        WARNING = _Member("WARNING", 2)
        INFO = _Member("INFO", 3)

    def log(self, severity, msg):
        raise AssertionError("the logger does not override log")


class IProgressMonitor:
    def phase_start(self, phase_name, parent_phase, num_steps):
        raise AssertionError("not overridden")

    def step_complete(self, phase_name, step):
        raise AssertionError("not overridden")

    def phase_finish(self, phase_name):
        raise AssertionError("not overridden")


def _freed(name):
    _behaviour.current.gone.append((name, any(_cuda.STREAMS.values())))


def _complain(logger, severity, text):
    logger.log(getattr(ILogger.Severity, severity), text)


def _session(content):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # the CPU's INT8 saturates, TensorRT's does not
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def _precision(session):
    """What the model's manifest says; the fake looks at it only to tell two engines apart."""
    return _json.loads(session.get_modelmeta().custom_metadata_map["clst_manifest"])["precision"]


class IHostMemory:
    __slots__ = ("_content",)

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self):
        return len(self._content)

    def __bytes__(self):
        return self._content


class LayerType:
    CONVOLUTION = _Member("CONVOLUTION", 0)


class ILayer:
    type = LayerType.CONVOLUTION


class INetworkDefinition:
    """Of five layers, whatever was parsed."""

    __slots__ = ("_content",)

    num_layers = 5

    def __init__(self) -> None:
        self._content = b""

    def get_layer(self, index):
        return ILayer()


class OnnxParser:
    __slots__ = ("_network",)

    def __init__(self, network, logger) -> None:
        self._network = network

    def parse_from_file(self, model):
        _behaviour.current.calls.append("parse")
        with open(model, "rb") as stream:
            self._network._content = stream.read()
        return True


class ITimingCache:
    """Counts the builds that it lived through, a dot for each."""

    __slots__ = ("_content",)

    def __init__(self, content) -> None:
        self._content = content

    def serialize(self):
        return IHostMemory(self._content)


class IBuilderConfig:
    __slots__ = (
        "DLA_core",
        "_cache",
        "_logger",
        "builder_optimization_level",
        "default_device_type",
        "profiling_verbosity",
        "progress_monitor",
    )

    def __init__(self) -> None:
        self.DLA_core, self._cache, self._logger = -1, None, None

    def set_memory_pool_limit(self, pool, pool_size):
        """Nothing is needed."""

    def set_flag(self, flag):
        """Nothing is needed."""

    def clear_flag(self, flag):
        """Nothing is needed."""

    def create_timing_cache(self, serialized_timing_cache):
        content = bytes(serialized_timing_cache)
        if content and not content.startswith(b"CACHE"):  # the real one gives an empty cache too
            _complain(self._logger, "WARNING", "Failed to deserialize timing cache. Returning an empty timing cache.")
            content = b""
        return ITimingCache(content or f"CACHE {__version__} ".encode())

    def set_timing_cache(self, cache, ignore_mismatch):
        if not ignore_mismatch and not cache._content.startswith(f"CACHE {__version__} ".encode()):
            return False
        self._cache = cache
        return True

    def get_timing_cache(self):
        return self._cache


class Builder:
    __slots__ = ("_logger",)

    def __init__(self, logger) -> None:
        if not _behaviour.current.starts:
            _complain(logger, "ERROR", "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        _behaviour.current.calls.append("builder")
        self._logger = logger

    @property
    def num_DLA_cores(self):  # noqa: N802 TensorRT's name
        return _behaviour.current.dla_cores

    def create_network(self, flags=0):
        _behaviour.current.calls.append("network")
        _behaviour.current.strongly_typed = flags == 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        return INetworkDefinition()

    def create_builder_config(self):
        config = IBuilderConfig()
        config._logger = self._logger
        return config

    def build_serialized_network(self, network, config):
        told = _behaviour.current
        told.calls.append("build")
        if told.on_build is not None:
            told.on_build(_precision(_session(network._content)))
        for severity, text in told.logs:
            _complain(self._logger, severity, text)
        if not told.builds:
            return None
        if config._cache is not None:
            config._cache._content += b"."
        header = {"version": __version__, "dla_core": config.DLA_core}
        return IHostMemory(_MAGIC + _json.dumps(header).encode() + b"\n" + network._content)


class Runtime:
    __slots__ = ("DLA_core", "_logger", "engine_host_code_allowed")

    def __del__(self):
        _freed("Runtime")

    def __init__(self, logger) -> None:
        if not _behaviour.current.starts:
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self._logger, self.engine_host_code_allowed, self.DLA_core = logger, False, -1

    def deserialize_cuda_engine(self, serialized_engine):
        told = _behaviour.current
        told.calls.append("deserialise")
        told.host_code_allowed.append(self.engine_host_code_allowed)
        content = bytes(serialized_engine)
        if not content.startswith(_MAGIC):
            _complain(self._logger, "ERROR", "magicTag does not match")
            return None
        header, _, model = content[len(_MAGIC) :].partition(b"\n")
        facts = _json.loads(header)
        if facts["version"] != __version__ or facts["dla_core"] != self.DLA_core:
            _complain(self._logger, "ERROR", f"engine of {facts}, this is {__version__} on core {self.DLA_core}")
            return None
        return ICudaEngine(model)


class ICudaEngine:
    __slots__ = ("_model", "_session")

    def __del__(self):
        _freed("ICudaEngine")

    def __init__(self, model) -> None:
        self._model, self._session = model, _session(model)

    def _tensors(self):
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        return [(each, True) for each in inputs] + [(each, False) for each in outputs]

    def _find(self, name):
        return next(pair for pair in self._tensors() if pair[0].name == name)

    @property
    def num_io_tensors(self):
        return len(self._tensors())

    def get_tensor_name(self, index):
        return self._tensors()[index][0].name

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if self._find(name)[1] else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        tensor, is_input = self._find(name)
        return getattr(DataType, _TYPES[tensor.type] if is_input else _behaviour.current.output_type)

    def get_tensor_shape(self, name):
        return tuple(self._find(name)[0].shape)

    def create_execution_context(self):
        return IExecutionContext(self._session) if _behaviour.current.has_context else None

    def create_engine_inspector(self):
        return EngineInspector(self._model)


class IExecutionContext:
    __slots__ = ("_addresses", "_session")

    def __del__(self):
        _freed("IExecutionContext")

    def __init__(self, session) -> None:
        self._session, self._addresses = session, {}

    def set_tensor_address(self, name, memory):
        _behaviour.current.calls.append(f"address {name}")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle):
        _behaviour.current.calls.append("execute")
        if not _behaviour.current.executes:
            return False
        _cuda.STREAMS[stream_handle].append(self._run)
        return True

    def _run(self):
        inputs = {
            each.name: _cuda.MEMORY[self._addresses[each.name]].reshape(each.shape)
            for each in self._session.get_inputs()
        }
        for tensor, values in zip(self._session.get_outputs(), self._session.run(None, inputs), strict=True):
            flat = values.reshape(-1).copy()
            flat[: round(_behaviour.current.wrong_share * flat.size)] += 1
            memory = _cuda.MEMORY[self._addresses[tensor.name]]
            memory[:] = flat.astype(_np.uint8)
        compute_ms = _behaviour.current.compute_ms
        # The event behind the run takes a millisecond of its own.
        return None if compute_ms is None else compute_ms(_precision(self._session)) - 1.0


class EngineInspector:
    __slots__ = ("_model",)

    def __init__(self, model) -> None:
        self._model = model

    def get_engine_information(self, format):
        import onnx

        assert format is LayerInformationFormat.JSON
        graph = onnx.shape_inference.infer_shapes(onnx.load_from_string(self._model)).graph
        types = {each.name: each.type.tensor_type for each in (*graph.value_info, *graph.output)}
        layers = [
            {"Name": node.name or node.op_type, "LayerType": node.op_type, "Outputs": self._told(node.output, types)}
            for node in graph.node
        ]
        names = [each.name for each in (*graph.input, *graph.output)]
        if __version__.startswith("11"):
            return _json.dumps({"Layers": layers, "I/O Tensors": [{"Name": name} for name in names]})
        return _json.dumps({"Layers": layers, "Bindings": names})

    def _told(self, names, types):
        words = {
            1: ("Float", "FP32"),
            2: ("UInt8", "UINT8"),
            3: ("Int8", "INT8"),
            7: ("Int64", "INT64"),
            10: ("Half", "FP16"),
        }
        told = []
        for name in names:
            kind, word = words[types[name].elem_type]
            entry = {"Name": name, "Dimensions": [each.dim_value for each in types[name].shape.dim]}
            if __version__.startswith("11"):
                entry |= {"Format": "Row major linear format (kLINEAR)", "DataType": kind}
            else:
                entry["Format/Datatype"] = f"Row major linear {word} format"
            told.append(entry)
        return told
