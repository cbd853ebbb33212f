"""One quantizer's file of one float32 graph; `quantizers.py` starts it in the Python that has the quantizer.

    python benchmarks/export/one_quantizer.py TASK.json

Needs neither PyTorch nor the rest of this folder. The last line of the output is a JSON object: CPU seconds of
the conversion, imports not counted, and by how many MiB the process grew at most meanwhile. The task names the float32
file, the calibration frames (N,H,W,3 uint8, .npy), the file to write, the quantizer, its options and the most CPU
seconds that it may take.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import math
import re
import resource
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Frames = npt.NDArray[np.uint8]
Task = dict[str, Any]


class Reader:
    """Calibration frames as ONNX Runtime's tools ask for them, one at a time."""

    def __init__(self, frames: Frames) -> None:
        self._frames = frames
        self._left: Iterator[Any] = iter(frames)

    def get_next(self) -> dict[str, Any] | None:
        """The next one; None at the end."""
        frame = next(self._left, None)
        return None if frame is None else {"frame": frame[None]}

    def rewind(self) -> None:
        """Start again."""
        self._left = iter(self._frames)

    def get_first(self) -> dict[str, Any]:
        """One of them, without taking it."""
        return {"frame": self._frames[0][None]}


def clst(task: Task, frames: Frames) -> Callable[[], None]:
    """This project's own, step by step as clst_export.pipeline takes them."""
    import onnx

    from clst_export.pipeline import RANGE_FRAMES
    from clst_export.precision import Target
    from clst_export.quantization.calibration import Method, calibrate
    from clst_export.quantization.fp16 import measure_ranges, to_fp16
    from clst_export.quantization.int8 import activations, to_int8

    base, images = onnx.load(task["base"]), list(frames)

    def run() -> None:
        model, target = base, task.get("target")
        if target is not None:
            method = Method(task["method"])
            ranges = calibrate(base, images, activations(base), [method])[method]
            model = to_int8(base, ranges, target=Target(target))
        if target != "cpu":
            model = to_fp16(model, ranges=measure_ranges(model, images[:RANGE_FRAMES])).model
        onnx.save(model, task["out"])

    return run


def autocast(task: Task, frames: Frames) -> Callable[[], None]:
    """ModelOpt AutoCast: float16 where its rules allow."""
    onnx = importlib.import_module("onnx")
    convert = importlib.import_module("modelopt.onnx.autocast").convert_to_mixed_precision

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            for index, frame in enumerate(frames):
                np.savez(Path(folder) / f"{index:04}.npz", frame=frame[None])
            model = convert(
                task["base"],
                keep_io_types=True,
                calibration_data=folder,  # without it: random numbers, and an error where the input is uint8
                nodes_to_exclude=[f"^{re.escape(name)}$" for name in task["exclude"]],
            )
        onnx.save(model, task["out"])

    return run


def modelopt(task: Task, frames: Frames) -> Callable[[], None]:
    """ModelOpt's post-training quantisation to INT8, the rest float16."""
    quantize = importlib.import_module("modelopt.onnx.quantization").quantize

    def run() -> None:
        quantize(
            task["base"],
            quantize_mode="int8",
            calibration_data_reader=Reader(frames),
            calibration_method=task["method"],
            calibration_eps=["cpu"],
            op_types_to_quantize=task["kinds"],
            nodes_to_exclude=[f"^{re.escape(name)}$" for name in task["exclude"]],
            output_path=task["out"],
            high_precision_dtype="fp16",
            log_level="WARNING",
        )

    return run


def onnxruntime(task: Task, frames: Frames) -> Callable[[], None]:
    """ONNX Runtime's static quantisation: uint8 activations, weights of 7 bits per channel, as it advises for AVX2."""
    tools = importlib.import_module("onnxruntime.quantization")
    prepare = importlib.import_module("onnxruntime.quantization.shape_inference").quant_pre_process

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            prepared = Path(folder) / "prepared.onnx"
            # Its optimiser merges the casts behind the arg-max and names nodes anew.
            prepare(task["base"], str(prepared), skip_optimization=True)
            tools.quantize_static(
                str(prepared),
                task["out"],
                Reader(frames),
                quant_format=tools.QuantFormat.QDQ,
                activation_type=tools.QuantType.QUInt8,
                weight_type=tools.QuantType.QInt8,
                per_channel=True,
                reduce_range=True,
                calibrate_method=tools.CalibrationMethod[task["method"]],
                nodes_to_exclude=task["exclude"],
            )

    return run


TOOLS: dict[str, Callable[[Task, Frames], Callable[[], None]]] = {
    "clst": clst, "autocast": autocast, "modelopt": modelopt, "onnxruntime": onnxruntime,
}  # fmt: skip
PACKAGES = {"clst": "clst", "autocast": "nvidia-modelopt", "modelopt": "nvidia-modelopt", "onnxruntime": "onnxruntime"}


def peak_mib() -> float:
    """The most memory that this process had so far, as Linux counts it: getrusage would count its parent's too."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return int(line.split()[1]) / 1024


def limit_cpu(seconds: int) -> None:
    """End this process, with a line that says so, once it has taken `seconds` more of CPU time."""

    def stop(*_: object) -> None:
        sys.exit(f"stopped after {seconds} s of CPU time")

    signal.signal(signal.SIGXCPU, stop)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(time.process_time() + seconds), hard))


def main() -> None:
    """Do the task that the file named on the command line describes."""
    task = json.loads(Path(sys.argv[1]).read_text())
    run = TOOLS[task["tool"]](task, np.load(task["frames"]))
    limit_cpu(task["limit"])
    before, started = peak_mib(), time.process_time()
    run()
    package = PACKAGES[task["tool"]]
    report = {"cpu_seconds": time.process_time() - started, "grew_mib": peak_mib() - before,
            "version": f"{package} {importlib.metadata.version(package)}"}  # fmt: skip
    print(json.dumps(report))


if __name__ == "__main__":
    main()
