"""A folder that is copied to a device and becomes an engine there: model, frames, expected class maps.

    bundle.json            hashes and build options
    model.onnx             with its manifest inside
    frames/NNNN.png        pictures of the input size
    expected/NNNN.png      the ONNX file's class map for each, as grey values
    README.txt             the one command
    model-….engine         the engine, one for each GPU and TensorRT version, with its manifest beside it
    model-….cache          its layer times, which make the next build quicker

Building needs neither torch nor onnx nor ONNX Runtime: the device compares with the class maps that came along.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np

from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda import open_cuda
from clst_runtime.backends.trt import TrtBackend
from clst_runtime.engines.build import build_engine
from clst_runtime.engines.library import load_tensorrt
from clst_runtime.engines.options import BuildOptions
from clst_runtime.engines.progress import BuildProgress, show_progress
from clst_runtime.engines.sidecar import read_engine
from clst_runtime.engines.verification import Expected
from clst_runtime.errors import DataError, MissingDependency, ModelFileError
from clst_runtime.images import read_image, read_label
from clst_runtime.labels import read_json_object
from clst_runtime.onnx_metadata import file_sha256

BUNDLE_VERSION = 1
INDEX, MODEL, FRAMES, EXPECTED = "bundle.json", "model.onnx", "frames", "expected"
CURE = "copy the folder again, or make it again with clst-export … --bundle"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """What `bundle.json` says."""

    model_sha256: str
    """Of `model.onnx`."""
    reference: str
    """What computed the expected class maps."""
    options: BuildOptions
    """How the engine is to be built."""
    frame_sha256: Mapping[str, str]
    """File name below `frames/` → its SHA-256."""
    expected_sha256: Mapping[str, str]
    """The same names below `expected/`."""

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "format_version": BUNDLE_VERSION,
            "model_sha256": self.model_sha256,
            "reference": self.reference,
            "options": self.options.to_json(),
            "frame_sha256": dict(self.frame_sha256),
            "expected_sha256": dict(self.expected_sha256),
        }


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's index and its model's hash.

    Raises:
        ModelFileError: the folder is no bundle, of another version, incomplete or damaged.
    """
    index = folder / INDEX
    if not index.is_file():
        raise ModelFileError(f"{folder}: a folder without {INDEX}, so no bundle; make one with clst-export … --bundle")
    try:
        value = read_json_object(index)
        if value.get("format_version") != BUNDLE_VERSION:
            raise ModelFileError(
                f"{index}: bundle version {value.get('format_version')}, expected {BUNDLE_VERSION}; {CURE}"
            )
        bundle = Bundle(
            model_sha256=str(value["model_sha256"]),
            reference=str(value["reference"]),
            options=BuildOptions.from_json(value["options"], where=str(index)),
            frame_sha256=dict(value["frame_sha256"]),
            expected_sha256=dict(value["expected_sha256"]),
        )
    except (DataError, KeyError, TypeError, ValueError, AttributeError) as error:
        told = error.message if isinstance(error, DataError) else f"{type(error).__name__} {error}"
        raise ModelFileError(f"{index} is damaged ({told}); {CURE}") from error
    if not bundle.frame_sha256 or bundle.frame_sha256.keys() != bundle.expected_sha256.keys():
        raise ModelFileError(f"{index} names no frames, or not the same ones as expected class maps; {CURE}")
    outside = [name for name in bundle.frame_sha256 if Path(name).name != name]
    if outside:
        raise ModelFileError(f"{index} is damaged (frame {outside[0]!r} is no plain file name); {CURE}")
    _check_file(folder / MODEL, bundle.model_sha256)
    return bundle


def load_frames(folder: Path, bundle: Bundle) -> tuple[list[Frame], Expected]:
    """The frames H,W,3 and their expected class maps H,W, hashes checked.

    Raises:
        ModelFileError: a file is missing or damaged.
    """
    frames, maps = [], []
    for name in sorted(bundle.frame_sha256):
        for place, digests in ((FRAMES, bundle.frame_sha256), (EXPECTED, bundle.expected_sha256)):
            _check_file(folder / place / name, digests[name])
        frames.append(read_image(folder / FRAMES / name))
        maps.append(read_label(folder / EXPECTED / name).astype(np.uint8))
    return frames, Expected(maps=maps, reference=bundle.reference)


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ModelFileError(f"{path} is missing; {CURE}")
    found = file_sha256(path)
    if found != sha256:
        raise ModelFileError(f"{path} is damaged: SHA-256 {found[:12]}…, {INDEX} says {sha256[:12]}…; {CURE}")


def engine_name(gpu: str, compute_capability: str, tensorrt: str) -> str:
    """`model-orin-8.7-trt10.3.0.engine`: one for each GPU and TensorRT version, so that a folder serves several."""
    kind = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-") or "gpu"
    return f"model-{kind}-{compute_capability}-trt{tensorrt}.engine"


def build_bundle(folder: Path, *, options: BuildOptions | None = None, progress: BuildProgress | None = None) -> Path:
    """Build and verify the engine of a bundle for this machine's GPU and TensorRT, or find it built.

    Args:
        folder: made by clst-export.
        options: other ones than the bundle's; an engine that was built with others is built again.
        progress: shows the build; None = bars or lines on stderr.

    Returns:
        The engine's path in `folder`.

    Raises:
        MissingDependency: no TensorRT or no GPU here. ModelFileError: the bundle is damaged.
        What `build_engine` raises.
    """
    bundle = read_bundle(folder)
    chosen = options or bundle.options
    engine = folder / _engine_here(folder)
    if engine.exists() and _still_good(engine, bundle, chosen):
        return engine
    if chosen.timing_cache is None:
        chosen = dataclasses.replace(chosen, timing_cache=engine.with_suffix(".cache"))
    frames, expected = load_frames(folder, bundle)
    click.echo(f"building {engine.name}, once for this GPU and TensorRT; this takes minutes", err=True)
    build_engine(
        folder / MODEL,
        engine,
        options=chosen,
        frames=frames,
        expected=expected,
        progress=progress or show_progress(),
    )
    return engine


def _engine_here(folder: Path) -> str:
    """The engine's name on this machine; the GPU is only looked at."""
    try:
        version = str(load_tensorrt().__version__)
        with open_cuda() as device:
            return engine_name(device.name, device.compute_capability, version)
    except MissingDependency as error:
        raise MissingDependency(
            f"{folder} becomes an engine where TensorRT and an NVIDIA GPU are: {error.message}; "
            f"without them its ONNX file can be run: {folder / MODEL}"
        ) from error


def _still_good(engine: Path, bundle: Bundle, options: BuildOptions) -> bool:
    """Whether an engine from an earlier build may be used; says why not."""
    try:
        facts = read_engine(engine)[1].engine
    except ModelFileError as error:
        click.echo(f"{error.message}; building it again", err=True)
        return False
    if facts["onnx_sha256"] != bundle.model_sha256 or facts.get("options") != options.to_json():
        click.echo(f"{engine.name} was built from another model or with other options; building it again", err=True)
        return False
    return True


def open_bundle(folder: Path) -> TrtBackend:
    """A bundle's engine, ready to predict; the first time on a machine it is built and verified, which takes minutes.

    Raises:
        What `build_bundle` and `TrtBackend` raise.
    """
    return TrtBackend(build_bundle(folder))
