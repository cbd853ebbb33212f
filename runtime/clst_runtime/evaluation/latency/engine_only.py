"""Engine-only latency: the network alone, without resize, check of the frame and copies to and from the host.

TensorRT's is measured by the GPU's own clock between the copies. By ONNX Runtime it is one run of the session with
input and output bound where it computes. Of other backends nothing is known, which is said.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from clst_runtime.backends.base import Backend, Frame
from clst_runtime.backends.onnxruntime.errors import one_line
from clst_runtime.evaluation.latency.host_to_host import Step
from clst_runtime.system.optional import require

DEVICES = {"CPUExecutionProvider": "cpu", "CUDAExecutionProvider": "cuda"}
"""Where ONNX Runtime's providers keep their tensors."""


def engine_step(backend: Backend) -> Step | str:
    """How to time a model's engine alone, or the reason why that cannot be measured."""
    gpu_times = getattr(backend, "device_times_ms", None)
    if gpu_times is not None:
        return _by_gpu_clock(backend, gpu_times)
    session = getattr(backend, "_session", None)  # the very session that predicts, not one opened like it
    if session is None:
        return f"not measured: {backend.description} does not report its engine's time"
    provider = session.get_providers()[0]
    if provider not in DEVICES:
        return f"not measured: nothing is known of where {provider} keeps its tensors"
    return _by_session(backend, session, DEVICES[provider])


def _by_gpu_clock(backend: Backend, gpu_times: Any) -> Step | str:
    backend.predict(np.zeros((*backend.manifest.input_hw, 3), np.uint8))
    if "compute" not in gpu_times():
        return "not measured: the engine was opened without the GPU's clock"

    def step(frame: Frame) -> int:
        backend.predict(frame)
        return int(gpu_times()["compute"] * 1e6)

    return step


def _by_session(backend: Backend, session: Any, device: str) -> Step:
    ort, binding = require("onnxruntime"), session.io_binding()
    rows, columns = backend.manifest.input_hw
    names = [output.name for output in session.get_outputs()]
    outputs = [ort.OrtValue.ortvalue_from_shape_and_type([1, rows, columns], np.uint8, device, 0) for _ in names]
    for name, output in zip(names, outputs, strict=True):
        binding.bind_ortvalue_output(name, output)

    def step(frame: Frame) -> int:
        given = ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(frame)[None], device, 0)
        binding.bind_ortvalue_input("frame", given)
        before = time.perf_counter_ns()
        with one_line(f"timing {backend.description}"):
            session.run_with_iobinding(binding)
            binding.synchronize_outputs()
        return time.perf_counter_ns() - before

    return step
