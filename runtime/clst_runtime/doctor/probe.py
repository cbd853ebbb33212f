"""What is imported or started only in a process of its own, because it may crash or hang there.

`ask` starts the process; `main` runs in it and prints one JSON object.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from clst_runtime.errors import MissingDependency
from clst_runtime.system.optional import blamed_for, require, unimportable
from clst_runtime.system.programs import Runner, ask_python, run_program

PROBE_SECONDS = 60.0
# y = Relu(x), both float32 of one element, opset 13, as an ONNX file.
_RELU = "CAc6NgoMCgF4EgF5IgRSZWx1EgRyZWx1Wg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQDQ=="


def ask(what: str, *arguments: str, run: Runner = run_program) -> dict[str, Any]:
    """What the probe `what` found; `{"error": …}` if it failed, crashed or hung."""
    found = ask_python(__name__, what, *arguments, seconds=PROBE_SECONDS, run=run)
    return found or {"error": f"its process crashed, or hung for {PROBE_SECONDS:.0f} s", "crashed": True}


def main(arguments: list[str]) -> None:
    """Run a probe and print what it found."""
    what, *rest = arguments
    try:
        found = PROBES[what](*rest)
    except Exception as error:  # noqa: BLE001  (this process exists to find out what goes wrong)
        found = {"error": told_failure(error)}
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def told_failure(error: Exception) -> str:
    """A failure in one line; of our own errors without the hint, because the doctor has one for the platform."""
    if isinstance(error, ImportError):
        error = unimportable(blamed_for(error), error)
    if isinstance(error, MissingDependency):
        return error.message.partition("; ")[0]
    return " ".join(str(error).split())[:300] or type(error).__name__


def probe_opencv() -> dict[str, Any]:

    cv2 = require("cv2")
    return {"version": str(cv2.__version__), **parse_build_information(cv2.getBuildInformation())}


def parse_build_information(text: str) -> dict[str, Any]:
    """Windows, GStreamer, FFMPEG and V4L2 of `cv2.getBuildInformation()`."""
    facts = {line.partition(":")[0].strip(): line.partition(":")[2].strip().upper() for line in text.splitlines()}
    return {
        "windows": facts.get("GUI", "NONE") not in ("", "NONE"),
        "gstreamer": facts.get("GStreamer", "NO").startswith("YES"),
        "ffmpeg": facts.get("FFMPEG", "NO").startswith("YES"),
        "v4l2": facts.get("v4l/v4l2", "NO").startswith("YES"),
    }


def probe_onnxruntime() -> dict[str, Any]:

    ort = require("onnxruntime")
    return {"version": str(ort.__version__), "providers": list(ort.get_available_providers())}


def probe_provider(name: str) -> dict[str, Any]:
    """Start a session of one node on a provider, without its falling back to the CPU, and run it."""
    import numpy as np

    from clst_runtime.backends.onnxruntime.errors import starting_a_gpu_provider, why_not_loaded

    ort = require("onnxruntime")
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if name != "CPUExecutionProvider":
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    try:
        with nullcontext() if name == "CPUExecutionProvider" else starting_a_gpu_provider(ort):
            session = ort.InferenceSession(base64.b64decode(_RELU), options, providers=[name])
        started = session.get_providers()[0] == name
    except Exception:
        lacks = why_not_loaded(ort, name)
        if not lacks:
            raise
        started = False
    if not started:
        return {"error": why_not_loaded(ort, name) or "it fell back to the CPU", "lacks_libraries": True}
    result = session.run(None, {"x": np.array([-1.0], np.float32)})[0]
    return {"started": True} if float(result[0]) == 0.0 else {"error": f"Relu(-1) came out as {float(result[0])}"}


def probe_tensorrt(library: str = "tensorrt") -> dict[str, Any]:
    """Version of TensorRT or of `rtx`, and whether its builder starts, which TensorRT's does with a GPU only."""
    from clst_runtime.backends.tensorrt.library import Library, Messages, make_logger, start_builder

    trt = Library(library).load()
    found: dict[str, Any] = {"version": str(trt.__version__)}
    messages = Messages()
    try:
        logger = make_logger(trt, messages)
        found["starts"] = start_builder(trt, logger, messages) is not None
    except (MissingDependency, AttributeError) as error:
        found |= {"starts": False, "why": told_failure(error)}
    return found


def probe_cuda() -> dict[str, Any]:
    from clst_runtime.backends.cuda.open import open_cuda

    with open_cuda() as device:
        return {"library": device.library, "gpu": device.name, "compute_capability": device.compute_capability}


PROBES: dict[str, Callable[..., dict[str, Any]]] = {
    "opencv": probe_opencv,
    "onnxruntime": probe_onnxruntime,
    "provider": probe_provider,
    "tensorrt": probe_tensorrt,
    "rtx": lambda: probe_tensorrt("rtx"),
    "cuda": probe_cuda,
}
