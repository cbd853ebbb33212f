"""ONNX Runtime. Legend: H rows, W columns of the model's input."""

from __future__ import annotations

import base64
import functools
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from clst_runtime.backends.base import Frame, Prediction, check_frame
from clst_runtime.errors import ConfigError, MissingDependency, ModelFileError
from clst_runtime.manifest import Manifest
from clst_runtime.onnx_metadata import read_onnx_manifest
from clst_runtime.optional import require
from clst_runtime.pool import Pool

# One QuantizeLinear of a float16 number at scale 1, as an ONNX file.
_QUANTISE_FLOAT16 = (
    "CAk6WAocCgF4CgFzCgF6EgFxIg5RdWFudGl6ZUxpbmVhchIBcCoJEApCAXNKAgA8KggQA0IBekoBAFoPCgF4EgoKCAgKEgQKAggB"
    "Yg8KAXESCgoICAMSBAoCCAFCBAoAEBQ="
)
OUTPUTS = ("classes", "confidence")
RESULTS_HELD = 8
"""Results that may be held at a time without new memory."""
PROVIDERS = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": ("CUDAExecutionProvider", "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
}
"""The provider that must run, then those that take what it has no kernel for."""


@functools.cache
def rounds_float16() -> bool:
    """Whether this ONNX Runtime's CPU rounds to the nearest when it quantises float16 (1.23 cuts off)."""
    ort = require("onnxruntime")
    session = ort.InferenceSession(base64.b64decode(_QUANTISE_FLOAT16), providers=["CPUExecutionProvider"])
    return int(session.run(None, {"x": np.array([0.75], np.float16)})[0][0]) == 1


def check_float16_rounding(where: str) -> None:
    """Refuse to compute a float16 graph with Q/DQ where it would not mean the same; `where` names it.

    Raises:
        MissingDependency: this ONNX Runtime cuts off.
    """
    if not rounds_float16():
        version = require("onnxruntime").__version__
        raise MissingDependency(
            f"{where}: ONNX Runtime {version} cuts off instead of rounding when it quantises float16, and would give "
            "other classes than TensorRT; install a newer one (1.32 rounds; it needs Python 3.11)"
        )


class OrtBackend:
    """An exported ONNX file on the CPU, CUDA or TensorRT provider; never falls back to another one silently."""

    def __init__(self, path: Path, *, threads: int | None = None, provider: str = "cpu") -> None:
        """Open a file.

        Raises:
            ConfigError: no provider of `PROVIDERS`. ModelFileError: damaged, or not by the artifact contract.
            MissingDependency: this ONNX Runtime has no such provider, or it does not start.
        """
        ort = require("onnxruntime")
        if provider not in PROVIDERS:
            raise ConfigError(f"provider {provider!r}; give one of {', '.join(PROVIDERS)}")
        wanted = PROVIDERS[provider][0]
        if wanted not in ort.get_available_providers():
            raise MissingDependency(
                f"this ONNX Runtime has no {wanted}, only {', '.join(ort.get_available_providers())}; "
                "install 'clst[ort-gpu]' instead of 'clst[ort]', or use --backend ort-cpu"
            )
        self._manifest = read_onnx_manifest(path)
        if provider == "cpu" and self._manifest.calibration.get("rest") == "fp16":
            check_float16_rounding(str(path))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if provider == "cpu" and self._manifest.calibration.get("target") == "tensorrt":
            # The CPU's signed kernels saturate where TensorRT does not: compute such a graph's Q/DQ one by one.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        try:
            self._session: Any = ort.InferenceSession(str(path), options, providers=list(PROVIDERS[provider]))
        except Exception as error:
            reason = str(error).strip().splitlines()[0][:160]
            raise ModelFileError(f"{path} is damaged or no ONNX file ONNX Runtime can read ({reason})") from error
        if self._session.get_providers()[0] != wanted:
            raise MissingDependency(f"ONNX Runtime could not start {wanted} for {path}; see clst-doctor")
        self._check_ports(path)
        self._binding = self._session.io_binding()
        self._pools = [Pool(RESULTS_HELD) for _ in range(1 + self._manifest.has_confidence)]
        self._description = f"ONNX Runtime {ort.__version__} {wanted.removesuffix('ExecutionProvider')}"

    def _check_ports(self, path: Path) -> None:
        manifest = self._manifest
        found = [(i.name, i.type, list(i.shape)) for i in (*self._session.get_inputs(), *self._session.get_outputs())]
        rows, columns = manifest.input_hw
        expected = [
            ("frame", "tensor(uint8)", [1, rows, columns, 3]),
            ("classes", "tensor(uint8)", [1, rows, columns]),
        ]
        if manifest.has_confidence:
            expected.append(("confidence", "tensor(uint8)", [1, rows, columns]))
        if found != expected:
            raise ModelFileError(
                f"{path}: inputs and outputs are {found}, its manifest says {expected}; export it again"
            )

    @property
    def manifest(self) -> Manifest:
        """What the model file says of itself."""
        return self._manifest

    @property
    def description(self) -> str:
        """Version and provider."""
        return self._description

    def predict(self, frame: Frame) -> Prediction:
        """Segment one RGB frame H,W,3 uint8 of exactly the manifest's input size.

        The result's arrays are read-only; they may be held as long as wanted, also after `close`.

        Raises:
            DataError: another shape or type.
        """
        check_frame(frame, self._manifest.input_hw)
        rows, columns = self._manifest.input_hw
        outputs = [pool.take((rows, columns)) for pool in self._pools]
        given = np.ascontiguousarray(frame)[None]  # held until the run is over: the binding keeps its address only
        self._binding.bind_cpu_input("frame", given)
        for name, output in zip(OUTPUTS, outputs, strict=False):
            self._binding.bind_output(name, "cpu", 0, np.uint8, (1, rows, columns), output.ctypes.data)
        self._session.run_with_iobinding(self._binding)
        for output in outputs:
            output.flags.writeable = False
        return Prediction(classes=outputs[0], confidence=outputs[1] if len(outputs) > 1 else None)

    def close(self) -> None:
        """Release the session; a second call does nothing."""
        self._session = self._binding = None

    def __enter__(self) -> OrtBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
