"""ONNX Runtime. Legend: H rows, W columns of the model's input."""

from __future__ import annotations

import base64
import functools
import logging
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Frame, Prediction, check_frame
from clst_runtime.backends.onnxruntime.errors import (
    is_onnxruntime,
    lacking,
    one_line,
    onnxruntime_failure,
    reason_of,
    starting_a_gpu_provider,
    why_not_loaded,
)
from clst_runtime.backends.onnxruntime.tensorrt_provider import (
    cache_folder,
    engine_cache,
    engine_cache_anew,
    precision_options,
    precision_warning,
)
from clst_runtime.errors import ClstError, ConfigError, MissingDependency, ModelFileError
from clst_runtime.imaging.array_pool import Pool
from clst_runtime.system.files.paths import in_utf_8
from clst_runtime.system.optional import require

_log = logging.getLogger(__name__)

# One QuantizeLinear of a float16 number at scale 1, as an ONNX file.
_QUANTISE_FLOAT16 = (
    "CAk6WAocCgF4CgFzCgF6EgFxIg5RdWFudGl6ZUxpbmVhchIBcCoJEApCAXNKAgA8KggQA0IBekoBAFoPCgF4EgoKCAgKEgQKAggB"
    "Yg8KAXESCgoICAMSBAoCCAFCBAoAEBQ="
)
OUTPUTS = ("classes", "confidence")
RESULTS_HELD = 8
"""Results that may be held at a time without new memory."""
_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
"""Float32 in the graph means float32: by default it computes convolutions in TF32, with 10 bits of mantissa."""
PROVIDERS: dict[str, tuple[Any, ...]] = {
    "cpu": ("CPUExecutionProvider",),
    "cuda": (_CUDA, "CPUExecutionProvider"),
    "tensorrt": ("TensorrtExecutionProvider", _CUDA, "CPUExecutionProvider"),
}
"""The provider that must run, then those that take what it has no kernel for; with its options, if it needs any."""


@functools.cache
def rounds_float16() -> bool:
    """Whether this ONNX Runtime's CPU rounds to the nearest when it quantises float16 (1.23 cuts off)."""
    ort = require("onnxruntime")
    with one_line("finding out how it rounds float16"):
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
            MissingDependency: this ONNX Runtime has no such provider, or it does not start. ClstError: too little
                memory.
        """
        ort = require("onnxruntime")
        if provider not in PROVIDERS:
            raise ConfigError(f"provider {provider!r}; give one of {', '.join(PROVIDERS)}")
        wanted = _name(PROVIDERS[provider][0])
        if wanted not in ort.get_available_providers():
            raise lacking(ort, wanted)
        self.manifest = read_onnx_manifest(path)
        if provider == "cpu" and self.manifest.calibration.get("rest") == "fp16":
            check_float16_rounding(str(path))
        self._where = path
        self.warnings: list[str] = []
        """What was wanted and could not be had, a line each."""
        options = ort.SessionOptions()
        options.log_severity_level = 3
        if provider == "cpu" and self.manifest.calibration.get("target") == "tensorrt":
            # The CPU's signed kernels saturate where TensorRT does not: compute such a graph's Q/DQ one by one.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        if threads is not None:
            options.intra_op_num_threads = threads
        with nullcontext() if provider == "cpu" else starting_a_gpu_provider(ort):
            self._session: Any = self._opened(ort, options, provider)
        if self._session.get_providers()[0] != wanted:
            raise _not_started(ort, wanted, path, "it gave no reason")
        self._check_ports(path)
        if provider != "cpu":
            self.warnings += nodes_elsewhere(self._session, wanted, path)
        if provider == "cuda" and self.manifest.precision == "int8":
            self.warnings.append(
                f"{path}: {wanted} has no INT8 convolutions and computes them in float, between Q and DQ; fp16 is the "
                "file for it, --backend ort-tensorrt or an engine computes INT8"
            )
        self._binding = self._session.io_binding()
        self._pools = [Pool(RESULTS_HELD) for _ in range(1 + self.manifest.has_confidence)]
        self.description = f"ONNX Runtime {ort.__version__} {wanted.removesuffix('ExecutionProvider')}"

    def _opened(self, ort: Any, options: Any, provider: str) -> Any:
        """The session; nothing but the providers that were asked for is tried."""
        path, (wanted, *others) = self._where, PROVIDERS[provider]
        if provider != "cpu":
            options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
        if provider != "tensorrt":
            return _session(ort, path, options, [wanted, *others])
        text = precision_options(self.manifest, where=path)
        self.warnings += precision_warning(self.manifest, where=path)
        folder = cache_folder(path, ort.__version__)
        had_engines = folder.is_dir() and any(folder.iterdir())
        first: list[Any] = [(wanted, {**text, **engine_cache(folder)}), *others]
        try:
            return _session(ort, path, options, first)
        except (ModelFileError, MissingDependency) as error:
            if not had_engines:
                raise
            _log.warning(f"{error.message}; removing the engines kept in {folder} and trying once more")
        return _session(ort, path, options, [(wanted, {**text, **engine_cache_anew(folder)}), *others])

    def _check_ports(self, path: Path) -> None:
        manifest = self.manifest
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

    def predict(self, frame: Frame) -> Prediction:
        check_frame(frame, self.manifest.input_hw)
        if self._session is None:
            raise ClstError(f"{self._where} was closed; open it again")
        rows, columns = self.manifest.input_hw
        outputs = [pool.take((rows, columns)) for pool in self._pools]
        given = np.ascontiguousarray(frame)[None]  # held until the run is over: the binding keeps its address only
        with one_line(f"running {self._where}"):
            self._binding.bind_cpu_input("frame", given)
            for name, output in zip(OUTPUTS, outputs, strict=False):
                self._binding.bind_output(name, "cpu", 0, np.uint8, (1, rows, columns), output.ctypes.data)
            self._session.run_with_iobinding(self._binding)
        for output in outputs:
            output.flags.writeable = False
        return Prediction(classes=outputs[0], confidence=outputs[1] if len(outputs) > 1 else None)

    def close(self) -> None:
        self._session = self._binding = None

    def __enter__(self) -> OrtBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def _name(provider: Any) -> str:
    """The provider's name, whether it is given with options or without."""
    return str(provider if isinstance(provider, str) else provider[0])


def _session(ort: Any, path: Path, options: Any, providers: list[Any]) -> Any:
    """A session that ONNX Runtime does not open by other providers behind our back, telling standard output.

    Raises:
        ModelFileError, MissingDependency, ClstError: as the constructor.
    """
    if not in_utf_8(str(path)):
        raise ModelFileError(f"{path}: ONNX Runtime opens no path that is not in UTF-8; rename the file or folder")
    try:
        return ort.InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:
        if not is_onnxruntime(error):
            raise
        reason, kind = reason_of(error), type(error).__name__
        blamed = onnxruntime_failure(error, f"opening {path}")
        if blamed is not None:
            raise blamed from error
        first = _name(providers[0])
        if kind == "EPFail" or (kind == "RuntimeError" and first != "CPUExecutionProvider"):
            raise _not_started(ort, first, path, reason) from error
        if kind == "NotImplemented":
            raise ModelFileError(
                f"{path}: ONNX Runtime {ort.__version__} cannot compute it ({reason}); install a newer one"
            ) from error
        raise ModelFileError(f"{path} is damaged or no ONNX file ONNX Runtime can read ({reason})") from error


def _not_started(ort: Any, provider: str, path: Path, reason: str) -> MissingDependency:
    text = why_not_loaded(ort, provider) or reason
    return MissingDependency(f"ONNX Runtime could not start {provider} for {path} ({text}); see clst-doctor")


def nodes_elsewhere(session: Any, wanted: str, path: Path) -> list[str]:
    """A line if another provider computes a part of the graph, or if that cannot be known."""
    assigned = getattr(session, "get_provider_graph_assignment_info", None)
    if assigned is None:
        return [f"{path}: this ONNX Runtime does not report whether {wanted} computes all of it (1.24 and newer do)"]
    counts: dict[str, int] = {}
    for part in assigned():
        counts[part.ep_name] = counts.get(part.ep_name, 0) + len(part.get_nodes())
    elsewhere = ", ".join(f"{count} by {name}" for name, count in sorted(counts.items()) if name != wanted)
    if not elsewhere:
        return []
    return [f"{path}: {wanted} does not compute all of its {sum(counts.values())} nodes; {elsewhere}"]
