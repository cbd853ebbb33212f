"""What flows through a graph on real frames: the measured ranges that FP16 and INT8 are decided by.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_runtime.backends.base import Frame
from clst_runtime.backends.onnxruntime.errors import one_line
from clst_runtime.system.optional import require

DOING = "measuring what flows through the graph"


def stream_activations(
    model: Any, names: Iterable[str], frames: Iterable[Frame]
) -> Iterator[dict[str, npt.NDArray[np.float32]]]:
    """For each frame H,W,3, the float tensors `names` of the graph by name, computed by ONNX Runtime on the CPU.

    Args:
        model: an ONNX ModelProto by the artifact contract; it is not changed.
        names: names of float tensors that nodes of the graph produce.
        frames: RGB frames of the model's input size.

    Raises:
        ClstError: ONNX Runtime cannot open or run the graph, or has too little memory.
    """
    onnx, ort = require("onnx"), require("onnxruntime")
    wanted = list(dict.fromkeys(names))
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    present = {output.name for output in watched.graph.output}
    watched.graph.output.extend(onnx.ValueInfoProto(name=name) for name in wanted if name not in present)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.enable_mem_pattern = False  # it plans one block in which all tensors live at once
    with one_line(DOING):
        session = ort.InferenceSession(watched.SerializeToString(), options, providers=["CPUExecutionProvider"])
    for frame in frames:
        with one_line(DOING):
            values = session.run(wanted, {"frame": frame[None]})
        yield dict(zip(wanted, values, strict=True))
