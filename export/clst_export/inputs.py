"""From the command's options to a request and the images it needs. Legend: H rows, W columns of the input."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from clst_export.camera_reference import reference_segments
from clst_export.pipeline import Inputs, Request
from clst_export.precision import Precision, Target
from clst_export.quantization.calibration import (
    Method,
    calibration_frames,
    split_frames,
)
from clst_export.verification.evaluator import contents_of, labelled_frames
from clst_export.verification.gate import BOUNDS, Bounds
from clst_runtime.backends.base import Frame
from clst_runtime.data.dataset import open_dataset
from clst_runtime.data.inputs import place_name
from clst_runtime.data.subsets import Subset, evenly_spread
from clst_runtime.errors import ConfigError, DataError
from clst_runtime.imaging.geometry import Content
from clst_runtime.imaging.media import split_options
from clst_runtime.system.files.json_values import printable
from clst_runtime.system.numbers import parse_size
from clst_train.data.target import TargetImages, open_target
from clst_train.models.checkpoint import Checkpoint
from clst_train.synthetic.camera_looks import LOOKS, find_look
from clst_train.synthetic.scenes import draw_scene

_log = logging.getLogger(__name__)

LEAST_WITH_LABELS = 0.9
"""Share of pixels that INT8 must agree on where its mIoU is held."""
USUAL_FRAMES = 16
"""Default number of images to compare on."""


def collect(checkpoint: Checkpoint, precision: str, options: Mapping[str, Any]) -> tuple[Request, Inputs]:
    """The request and the images for it.

    Args:
        checkpoint: what is exported.
        precision: `fp32`, `fp16` or `int8`.
        options: the command's options by their parameter names.

    Raises:
        ClstError: a setting or an image cannot be used.
    """
    input_hw = parse_size(options["size"]) if options["size"] else checkpoint.input_hw
    wanted = Precision(precision)
    request = Request(
        precision=wanted,
        target=Target.CPU if options["target"] == "cpu" else Target.TENSORRT,
        input_hw=input_hw,
        opset=int(options["opset"]),
        with_confidence=options["confidence"],
        methods=tuple(Method) if options["calib_method"] == "best" else (Method(options["calib_method"]),),
        bounds=_bounds(wanted, options),
        budget=None if options["max_miou_drop"] is None else options["max_miou_drop"] / 100,
        licence=options["licence"] or "",
    )
    places = list(options["calib"]) or _targets(checkpoint)
    reference, note = reference_segments(places, input_hw, checkpoint.fit)
    if note:
        _log.info(f"note: {note}")
    inputs = _images(checkpoint, wanted, input_hw, options)
    return request, dataclasses.replace(inputs, reference=reference)


def baseline_request(request: Request, options: Mapping[str, Any]) -> Request:
    """The FP16 file that an INT8 one is compared with; --max-miou-drop is what INT8 may lose, so not for it."""
    bounds = _bounds(Precision.FP16, {**options, "max_miou_drop": None})
    return dataclasses.replace(request, precision=Precision.FP16, bounds=bounds, budget=None)


def _bounds(precision: Precision, options: Mapping[str, Any]) -> Bounds:
    """The default bounds with the command's options on top.

    With labels, mIoU decides for INT8; the agreement bound is then low and only stops a model with other predictions
    whose mIoU happens to be as good. With --min-agreement, ties count as different pixels.
    """
    usual, drop, agreement = BOUNDS[precision], options["max_miou_drop"], options["min_agreement"]
    max_drop = usual.max_miou_drop if drop is None else drop / 100
    least = usual.min_agreement
    if agreement is not None:
        return dataclasses.replace(usual, min_agreement=agreement / 100, max_miou_drop=max_drop, max_untied=1.0)
    if precision is Precision.INT8 and options["data"] is not None:
        least = LEAST_WITH_LABELS
    elif drop is not None:
        least = 1.0 - drop / 100
    return dataclasses.replace(usual, min_agreement=least, max_miou_drop=max_drop)


def _images(
    checkpoint: Checkpoint, precision: Precision, input_hw: tuple[int, int], options: Mapping[str, Any]
) -> Inputs:
    calibration: Sequence[Frame] = ()
    if precision is not Precision.FP32:
        calibration = _calibration(checkpoint, precision, input_hw, options)
    if options["data"] is not None:
        labelled, labels = _labelled(checkpoint, input_hw, options)
        contents = contents_of(labels, input_hw, checkpoint.fit)
        name = printable(f"{place_name(options['data'])}, split {options['split']}")
        return Inputs(frames=labelled, name=name, labels=labels, contents=contents, calibration=calibration)
    if calibration and options["frames_from"] is None:
        held_out = min(options["count"] or USUAL_FRAMES, max(1, len(calibration) // 4))
        rest, kept = split_frames(range(len(calibration)), held_out=held_out)
        contents = [Content(0, 0, *input_hw)] * len(kept)
        if isinstance(calibration, TargetImages):
            contents = [calibration.content(place) for place in kept]
        name = _named(list(options["calib"]) or _targets(checkpoint))
        return Inputs(
            frames=Subset(calibration, kept), name=name, contents=contents, calibration=Subset(calibration, rest)
        )
    frames, contents = verification_frames(checkpoint, options, input_hw)
    name = _named(_compared(checkpoint, options))
    return Inputs(frames=frames, name=name, contents=contents, calibration=calibration)


def _named(places: Sequence[str]) -> str:
    """What the images of these places are, in a line; without places they are drawn."""
    return printable(", ".join(map(place_name, places)) or "synthetic scenes")


def _compared(checkpoint: Checkpoint, options: Mapping[str, Any]) -> list[str]:
    """The places of images to compare on: `--frames`, else the target images of the checkpoint's run; may be none."""
    given = options["frames_from"]
    return [str(given)] if given is not None else _targets(checkpoint)


def _labelled(
    checkpoint: Checkpoint, input_hw: tuple[int, int], options: Mapping[str, Any]
) -> tuple[list[Frame], list[npt.NDArray[np.uint8]]]:
    mapping = Path(options["mapping"]) if options["mapping"] else None
    dataset = open_dataset(
        Path(options["data"]), split=options["split"], classes=checkpoint.classes, mapping_file=mapping
    )
    for remark in dataset.remarks:
        _log.info(f"note: {options['data']}: {remark}")
    return labelled_frames(dataset, input_hw, options["count"] or len(dataset), checkpoint.fit)


def _calibration(
    checkpoint: Checkpoint, precision: Precision, input_hw: tuple[int, int], options: Mapping[str, Any]
) -> Sequence[Frame]:
    """Frames of the new camera: `--calib`, else the target of the checkpoint's run; for FP16 else synthetic scenes.

    Empty for FP16 where images to compare on are given: its ranges are measured on those.
    """
    own = _targets(checkpoint)
    places = list(options["calib"]) or own
    if places:
        return calibration_frames(places, input_hw, options["calib_count"], _aspect(own), checkpoint.fit)
    if precision is Precision.INT8:
        raise DataError(
            "no calibration images: the checkpoint's run has no target images on this machine; give --calib a folder "
            "or video of the camera it will drive with"
        )
    if options["frames_from"] is not None or options["data"] is not None:
        return ()
    return synthetic_frames(input_hw, options["count"] or USUAL_FRAMES)


def _targets(checkpoint: Checkpoint) -> list[str]:
    """The target images of the checkpoint's run, if they are still there."""
    places = list(checkpoint.config.get("data", {}).get("target", []))
    return places if all(split_options(Path(place))[0].exists() for place in places) else []


def _aspect(places: list[str]) -> float | None:
    """Columns / rows of the first target image; None where there is none."""
    if not places:
        return None
    rows, columns = open_target(places[:1], input_hw=(32, 32), choose=lambda _: [0]).sizes[0]
    return float(columns / rows)


def verification_frames(
    checkpoint: Checkpoint, options: Mapping[str, Any], input_hw: tuple[int, int]
) -> tuple[Sequence[Frame], list[Content]]:
    """Frames H,W,3 to compare on: `--frames`, else the target images of the checkpoint's run, else synthetic scenes.

    Also returns where the camera's image lies in each frame; empty for scenes, which have no padding.
    """
    places, count = _compared(checkpoint, options), options["count"] or USUAL_FRAMES
    if not places:
        return synthetic_frames(input_hw, count), []
    images = open_target(
        places, input_hw=input_hw, fit=checkpoint.fit, choose=lambda total: evenly_spread(total, count, centred=True)
    )
    return images, [images.content(place) for place in range(len(images))]


def synthetic_frames(input_hw: tuple[int, int], count: int) -> list[Frame]:
    """Synthetic scenes of both cameras; prints on stderr that they replace real images."""
    if min(input_hw) < 1:
        raise ConfigError(f"size {input_hw[0]}x{input_hw[1]}; give at least 32x32")
    _log.warning("no target images at hand; comparing on synthetic scenes (give --frames for real ones)")
    looks = [find_look(name) for name in LOOKS]
    return [
        draw_scene(np.random.default_rng([7, index]), looks[index % len(looks)], input_hw)[0] for index in range(count)
    ]
