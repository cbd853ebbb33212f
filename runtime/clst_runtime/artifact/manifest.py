"""The manifest, which describes a deployed model: JSON in the ONNX metadata, or in a file beside an engine."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from clst_runtime.classes.labels import IGNORE_ID, ClassList
from clst_runtime.errors import ClstError, ModelFileError
from clst_runtime.imaging.geometry import Fit, fit_named
from clst_runtime.system.files.json_values import (
    field,
    mapping,
    name,
    no_others,
    number,
    one_of,
    optional,
    or_none,
    parse_object,
    several,
    sha256,
    shown,
    truth,
    whole,
)
from clst_runtime.system.numbers import LARGEST_COUNT, LARGEST_INTEGER, LARGEST_SIDE

FORMAT_VERSION = 1
METADATA_KEY = "clst_manifest"
MOST_PIXELS = 64 << 20
"""Of a model's input; an 8K camera has half of it."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Everything a program needs to run a model; no file is run whose manifest does not fit."""

    format_version: int = FORMAT_VERSION
    """Version of this form; another one is refused."""
    network: str
    """Its name in training with its options, e.g. `ddrnet23_slim` or `vehicle.networks:unet?width=32`."""
    provenance: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What network and weights came from, as far as is known; each is a line of text or a SHA-256, and a reader takes
    any name. `package` with its version, `head`, `pretrained_sha256`, `weights_file` and `weights_sha256` of a file of
    another project; `source`, `source_training`, `source_miou`, `target`, `adaptation`, `adapted_miou` of the run;
    `commit` of the exporter; `licence` as its user gave it."""
    input_hw: tuple[int, int]
    """Rows and columns of the frame, uint8 1,H,W,3."""
    colour_order: str = "RGB"
    """Order of the frame's channels; always RGB."""
    fit: Fit = Fit.STRETCH
    """How a camera frame of another size becomes H,W; files without the key stretch."""
    mean: tuple[float, float, float]
    """Per-channel mean on the 0–255 scale; applied inside the graph, here for information."""
    std: tuple[float, float, float]
    """Per-channel standard deviation on the 0–255 scale; applied inside the graph."""
    channels: str = "rgb"
    """Order of the network's own channels, and of mean and std: `rgb` or `bgr`; turned inside the graph."""
    classes: ClassList
    """The classes in the order of their ids."""
    ignore_id: int = 255
    """The id of unlabelled pixels in label files; the model never outputs it."""
    precision: str = "fp32"
    """Arithmetic of the graph: `fp32`, `fp16` or `int8`."""
    has_confidence: bool = False
    """Whether a second output gives the winner's probability × 255 as uint8."""
    temperature: float = 1.0
    """By how much logits are divided for that probability, inside the graph; files without the key do not."""
    source_checkpoint_sha256: str
    """SHA-256 of the checkpoint it was made of."""
    model_sha256: str | None = None
    """SHA-256 of the ONNX file without this manifest (initialisers and nodes); None for a checkpoint."""
    tool_versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Versions of clst, torch, onnx, onnxruntime that made the file."""
    parity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What was measured against PyTorch at export: on which `images`, how many frames, agreement, difference in mIoU
    when labels were given."""
    calibration: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """INT8: method, number of frames, SHA-256 over them, and the layers kept in a higher precision."""
    engine: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """TensorRT engines: GPU, compute capability, TensorRT version, SHA-256 of the engine and of its ONNX file."""
    build_check: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What TensorRT made of the file at export, by `check_build`; empty if it was not checked."""
    domain: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the camera looks like that the model is for, as `monitor.reference` measures it; empty if not measured."""

    def to_json(self) -> str:
        value = dataclasses.asdict(self)
        value["classes"] = self.classes.to_json()
        return json.dumps(value, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str, *, where: str) -> Manifest:
        """Read and check a manifest; `where` names the file in messages.

        Raises:
            ModelFileError: not JSON, another format version, or a field is missing, unknown or of a wrong form.
        """
        try:
            value = parse_object(text)
            version = value["format_version"]
        except (ValueError, KeyError) as error:
            raise ModelFileError(f"{where}: its manifest is damaged ({error}); export the model again") from error
        if type(version) is not int or version != FORMAT_VERSION:
            raise ModelFileError(
                f"{where}: manifest format version {shown(version)}, expected {FORMAT_VERSION}; "
                "export the model again with this version of clst"
            )
        try:
            return Manifest(**_checked(value, where))
        except (ValueError, ClstError) as error:
            raise ModelFileError(f"{where}: its manifest does not fit ({error}); export the model again") from error


def input_size(value: Any) -> tuple[int, int]:
    """Rows and columns of a model's input, checked.

    Raises:
        ValueError: they are none.
    """
    rows, columns = several(2, whole(1, LARGEST_SIDE))(value)
    if rows * columns > MOST_PIXELS:
        raise ValueError(f"{rows}x{columns}, more than {MOST_PIXELS >> 20} Mi pixels")
    return rows, columns


def channels(low: float = -math.inf) -> Callable[[Any], tuple[float, float, float]]:
    """A check for a number above `low` for each of three channels."""

    def check(value: Any) -> tuple[float, float, float]:
        red, green, blue = several(3, number(low))(value)
        return red, green, blue

    return check


def _fit(value: Any) -> Fit:
    try:
        return fit_named(value if isinstance(value, str) else shown(value))
    except ValueError as error:
        raise ValueError(f"unknown: {error}") from error


def _parity(value: Any) -> dict[str, Any]:
    """What is read of it again: the frames, and the bounds that held."""
    found = mapping(value)
    optional(found, "images", name)
    optional(found, "frames", whole(0, LARGEST_COUNT))
    optional(found, "agreement", number())
    for share in ("miou", "reference_miou", "ece"):
        optional(found, share, or_none(number()))
    bounds = optional(found, "bounds", mapping) or {}
    for bound in ("min_agreement", "max_miou_drop"):
        optional(bounds, bound, number())
    return found


def _engine(value: Any) -> dict[str, Any]:
    """Facts that an engine is judged by, where there are any."""
    found = mapping(value)
    for text in ("gpu", "compute_capability", "tensorrt"):
        optional(found, text, name)
    for digest in ("engine_sha256", "onnx_sha256"):
        optional(found, digest, sha256)
    for count in ("engine_bytes", "multiprocessors"):
        optional(found, count, whole(0, LARGEST_INTEGER))
    optional(found, "options", mapping)
    return found


def _build_check(value: Any) -> dict[str, Any]:
    """What a builder reported, where one was asked."""
    found = mapping(value)
    for word in ("builder", "version"):
        optional(found, word, name)
    optional(found, "seconds", number())
    optional(found, "engine_bytes", whole(0, LARGEST_INTEGER))
    layers = optional(found, "layers", mapping)
    for kind in layers or {}:
        field(found["layers"], kind, whole(0, LARGEST_COUNT))
    if layers is not None:
        field(found, "seconds", number())
    return found


def _versions(value: Any) -> dict[str, str]:
    return {tool: field(value, tool, name) for tool in mapping(value)}


def _provenance(value: Any) -> dict[str, str]:
    return {key: field(value, key, sha256 if key.endswith("_sha256") else name) for key in mapping(value)}


CHECKS: Mapping[str, Callable[[Any], Any]] = {
    "format_version": one_of(FORMAT_VERSION),
    "network": name,
    "provenance": _provenance,
    "input_hw": input_size,
    "colour_order": one_of("RGB"),
    "fit": _fit,
    "mean": channels(),
    "std": channels(0.0),
    "channels": one_of("rgb", "bgr"),
    "ignore_id": one_of(IGNORE_ID),
    "precision": name,  # another one is refused where it matters: who builds an engine may give a bound for it
    "has_confidence": truth,
    "temperature": number(0.0),
    "source_checkpoint_sha256": sha256,
    "model_sha256": or_none(sha256),
    "tool_versions": _versions,
    "parity": _parity,
    "calibration": mapping,
    "engine": _engine,
    "build_check": _build_check,
    "domain": mapping,
}
"""Every field but the classes, which check themselves."""


def _checked(value: Mapping[str, Any], where: str) -> dict[str, Any]:
    no_others(value, (*CHECKS, "classes"))
    classes = ClassList.from_json(field(value, "classes", mapping), name=where)
    found = {each: field(value, each, check) for each, check in CHECKS.items() if each in value}
    for each in dataclasses.fields(Manifest):
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING:
            field(value, each.name, lambda given: given)
    return found | {"classes": classes}
