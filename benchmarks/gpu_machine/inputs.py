"""What the steps on a GPU machine work with, made where PyTorch is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.data.subsets import evenly_spread
from clst_runtime.system.files.atomic import folder_written_whole

MOST_IMAGES, EVERY = 30, 5
"""So many are taken; of these every fifth is compared on, the others are what ranges are measured on."""
MODELS = ("fp32", "fp16", "int8")
"""Each is FOLDER/<name>.onnx; int8 is the one for TensorRT."""
DATA = "frames.npz"
"""`frames` N,H,W,3, and for each model the class maps N,H,W that ONNX Runtime's CPU gives."""


def prepare(folder: Path, checkpoint: Path, images: Path, size_hw: tuple[int, int] | None) -> None:
    """Export a checkpoint in every precision, at its own size or another, and write the CPU's class maps beside.

    Raises:
        ClstError: what an export raises.
    """
    from clst_export.pipeline import Inputs, Request, convert
    from clst_export.precision import Precision
    from clst_export.quantization.calibration import Method
    from clst_export.verification.gate import Bounds
    from clst_runtime.backends.onnxruntime.session import OrtBackend
    from clst_train.data.target import open_target
    from clst_train.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    size_hw = size_hw or loaded.input_hw
    target = open_target([str(images)], input_hw=size_hw, fit=loaded.fit)
    chosen = evenly_spread(len(target), MOST_IMAGES)
    frames = [target[index] for index in chosen[::EVERY]]
    others = [target[index] for place, index in enumerate(chosen) if place % EVERY]
    inputs = Inputs(frames=frames, calibration=others or frames)
    lax = Bounds(min_agreement=0.0, max_miou_drop=1.0)  # later each file is compared with itself, computed elsewhere
    with folder_written_whole(folder) as made:
        arrays: dict[str, Any] = {"frames": np.stack(frames)}
        for name in MODELS:
            request = Request(precision=Precision(name), input_hw=size_hw, methods=(Method.MAX,), bounds=lax)
            convert(checkpoint, made / f"{name}.onnx", request, inputs)
            with OrtBackend(made / f"{name}.onnx") as backend:
                arrays[name] = np.stack([np.array(backend.predict(frame).classes) for frame in arrays["frames"]])
        np.savez_compressed(made / DATA, **arrays)
