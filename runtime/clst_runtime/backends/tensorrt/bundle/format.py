"""What lies in a bundle, the folder that is copied to a device: its index, read and checked.

bundle.json                hashes and build options
model.onnx                 with its manifest inside
frames/NNNN.png            images of the input size
expected/NNNN.png          the ONNX file's class map for each, as grey values
rival.onnx                 of an INT8 model: the same checkpoint as FP16
rival-expected/NNNN.png    its own class maps
README.md                  the model card, with the one command
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from clst_runtime.backends.base import Frame
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.verification import Expected
from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.imaging.image_files import read_image, read_label
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.json_values import field, mapping, name, one_of, read_json_object, sha256, shown

ALONE_VERSION, PAIR_VERSION = 1, 2
"""Versions of `bundle.json`: a model alone, and one with its baseline, which a program of version 1 would overlook."""
INDEX, FRAMES = "bundle.json", "frames"
MODEL, EXPECTED = "model.onnx", "expected"
BASELINE, BASELINE_EXPECTED = "rival.onnx", "rival-expected"
FALLBACK = "; its ONNX file runs without them"
"""Hint where a bundle's engine needs what is not there; how to run it follows."""
HINT = "copy the folder again, or make it again with clst-export … --bundle"


@dataclass(frozen=True, kw_only=True)
class BundledModel:
    """One of a bundle's ONNX files and its class maps of the frames."""

    file: str
    expected_folder: str
    sha256: str
    """Of the ONNX file."""
    reference: str
    expected_sha256: Mapping[str, str]
    """File name below `expected_folder` → its SHA-256; the names are those of the frames."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, without the names that are always the same."""
        return {
            "model_sha256": self.sha256,
            "reference": self.reference,
            "expected_sha256": dict(self.expected_sha256),
        }

    @staticmethod
    def from_json(value: Mapping[str, Any], *, file: str, expected_folder: str) -> BundledModel:
        """Read the form of `to_json`.

        Raises:
            ValueError: it has another form.
        """
        return BundledModel(
            file=file,
            expected_folder=expected_folder,
            sha256=field(value, "model_sha256", sha256),
            reference=field(value, "reference", name),
            expected_sha256=field(value, "expected_sha256", _digests),
        )


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """The content of `bundle.json`."""

    model: BundledModel
    baseline: BundledModel | None = None
    """`rival.onnx`, so named since the format's first version: FP16 of the same checkpoint, where the model is INT8."""
    options: BuildOptions
    frame_sha256: Mapping[str, str]
    """File name below `frames/` → its SHA-256."""

    @property
    def models(self) -> tuple[BundledModel, ...]:
        return (self.model,) if self.baseline is None else (self.model, self.baseline)

    def to_json(self) -> dict[str, Any]:
        value = {
            "format_version": ALONE_VERSION if self.baseline is None else PAIR_VERSION,
            **self.model.to_json(),
            "options": self.options.to_json(),
            "frame_sha256": dict(self.frame_sha256),
        }
        return value if self.baseline is None else {**value, "rival": {"file": BASELINE, **self.baseline.to_json()}}


def read_bundle(folder: Path) -> Bundle:
    """Read and check a bundle's index and its models' hashes.

    Raises:
        ModelFileError: the folder is no bundle, of another version, incomplete or damaged.
    """
    index = folder / INDEX
    if not folder.is_dir():
        found = "a file" if folder.exists() else "no such folder"
        raise ModelFileError(f"{folder}: {found}, where a bundle is needed, the folder that clst-export --bundle makes")
    if not index.is_file():
        raise ModelFileError(f"{folder}: a folder without {INDEX}, so no bundle; make one with clst-export … --bundle")
    try:
        bundle = _read_index(index)
    except (DataError, ValueError) as error:
        raise ModelFileError(f"{index} is damaged ({error}); {HINT}") from error
    for model in bundle.models:
        if not bundle.frame_sha256 or bundle.frame_sha256.keys() != model.expected_sha256.keys():
            raise ModelFileError(f"{index} names no frames, or not the same ones as class maps of {model.file}; {HINT}")
    outside = [name for name in bundle.frame_sha256 if Path(name).name != name]
    if outside:
        raise ModelFileError(f"{index} is damaged (frame {outside[0]!r} is no plain file name); {HINT}")
    for model in bundle.models:
        _check_file(folder / model.file, model.sha256)
    return bundle


def _read_index(index: Path) -> Bundle:
    value = read_json_object(index)
    version = value.get("format_version")
    if type(version) is not int or version not in (ALONE_VERSION, PAIR_VERSION):
        raise ModelFileError(
            f"{index}: bundle version {shown(version)}, expected {ALONE_VERSION} or {PAIR_VERSION}; {HINT}"
        )
    baseline = None
    if version == PAIR_VERSION:
        facts = field(value, "rival", mapping)
        field(facts, "file", one_of(BASELINE))
        baseline = BundledModel.from_json(facts, file=BASELINE, expected_folder=BASELINE_EXPECTED)
    return Bundle(
        model=BundledModel.from_json(value, file=MODEL, expected_folder=EXPECTED),
        baseline=baseline,
        options=BuildOptions.from_json(field(value, "options", mapping), where=str(index)),
        frame_sha256=field(value, "frame_sha256", _digests),
    )


def _digests(value: Any) -> dict[str, str]:
    return {file: field(value, file, sha256) for file in mapping(value)}


def load_frames(folder: Path, bundle: Bundle) -> list[Frame]:
    """The frames H,W,3 in the order of their names, hashes checked.

    Raises:
        ModelFileError: a file is missing or damaged.
    """
    return [read_image(path) for path in _checked(folder / FRAMES, bundle.frame_sha256)]


def load_expected(folder: Path, model: BundledModel) -> Expected:
    """A model's class map H,W for each frame, hashes checked.

    Raises:
        ModelFileError: a file is missing or damaged.
    """
    paths = _checked(folder / model.expected_folder, model.expected_sha256)
    return Expected(maps=[read_label(path).astype(np.uint8) for path in paths], reference=model.reference)


def _checked(folder: Path, digests: Mapping[str, str]) -> list[Path]:
    for file, digest in digests.items():
        _check_file(folder / file, digest)
    return [folder / file for file in sorted(digests)]


def _check_file(path: Path, sha256: str) -> None:
    if not path.is_file():
        raise ModelFileError(f"{path} is missing; {HINT}")
    found = file_sha256(path)
    if found != sha256:
        raise ModelFileError(f"{path} is damaged: SHA-256 {found[:12]}…, {INDEX} says {sha256[:12]}…; {HINT}")
