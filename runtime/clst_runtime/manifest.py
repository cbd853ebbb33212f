"""What a deployed model says of itself: JSON inside the ONNX metadata, or beside an engine."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from clst_runtime.errors import ClstError, ModelFileError
from clst_runtime.frames import Fit, fit_named
from clst_runtime.json_values import parse_object
from clst_runtime.labels import ClassList

FORMAT_VERSION = 1
METADATA_KEY = "clst_manifest"


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a program needs to run a model; no file is run whose manifest does not fit."""

    format_version: int = FORMAT_VERSION
    """Version of this form; another one is refused."""
    network: str
    """Architecture, e.g. `ddrnet23_slim`."""
    input_hw: tuple[int, int]
    """Rows and columns of the frame, uint8 1,H,W,3."""
    colour_order: str = "RGB"
    """Order of the frame's channels; always RGB."""
    fit: Fit = Fit.STRETCH
    """How a camera frame of another size becomes H,W; files that do not say it stretch."""
    mean: tuple[float, float, float]
    """Per-channel mean on the 0–255 scale; applied inside the graph, here for information."""
    std: tuple[float, float, float]
    """Per-channel standard deviation on the 0–255 scale; applied inside the graph."""
    classes: ClassList
    """The classes in the order of their ids."""
    ignore_id: int = 255
    """The id of unlabelled pixels in label files; the model never outputs it."""
    precision: str = "fp32"
    """Arithmetic of the graph: `fp32`, `fp16` or `int8`."""
    has_confidence: bool = False
    """Whether a second output gives the winner's probability × 255 as uint8."""
    source_checkpoint_sha256: str
    """SHA-256 of the checkpoint it was made of."""
    model_sha256: str | None = None
    """SHA-256 of the ONNX file without this manifest (initialisers and nodes); None for a checkpoint."""
    tool_versions: Mapping[str, str] = field(default_factory=dict)
    """Versions of clst, torch, onnx, onnxruntime that made the file."""
    parity: Mapping[str, Any] = field(default_factory=dict)
    """What was measured against PyTorch at export: frames, agreement, difference in mIoU when labels were given."""
    calibration: Mapping[str, Any] = field(default_factory=dict)
    """INT8: method, number of frames, SHA-256 over them, and the convolutions kept in a higher precision."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """TensorRT engines: GPU, compute capability, TensorRT version, SHA-256 of the engine and of its ONNX file."""
    domain: Mapping[str, Any] = field(default_factory=dict)
    """What the camera looks like that the model is for, as `monitor.reference` measures it; empty if not measured."""

    def to_json(self) -> str:
        """One JSON object as text."""
        value = dataclasses.asdict(self)
        value["classes"] = self.classes.to_json()
        return json.dumps(value, indent=1)

    @staticmethod
    def from_json(text: str, *, where: str) -> Manifest:
        """Read and check a manifest; `where` names the file in messages.

        Raises:
            ModelFileError: not JSON, another format version, or a field is missing, unknown or of a wrong form.
        """
        try:
            value = parse_object(text)
            version = value["format_version"]
        except (ValueError, KeyError, TypeError) as error:
            raise ModelFileError(f"{where}: its manifest is damaged ({error}); export the model again") from error
        if version != FORMAT_VERSION:
            raise ModelFileError(
                f"{where}: manifest format version {version}, expected {FORMAT_VERSION}; "
                "export the model again with this version of clst"
            )
        try:
            value["classes"] = ClassList.from_json(value["classes"], name=where)
            for name, count in (("input_hw", 2), ("mean", 3), ("std", 3)):
                if len(value[name]) != count:
                    raise ValueError(f"{name} has {len(value[name])} values, expected {count}")
                value[name] = tuple(value[name])
            value["fit"] = fit_named(value.get("fit", Fit.STRETCH.value))
            return Manifest(**value)
        except (KeyError, TypeError, ValueError, ClstError) as error:
            raise ModelFileError(f"{where}: its manifest does not fit ({error}); export the model again") from error
