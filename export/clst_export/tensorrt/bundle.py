"""The folder that a device makes its engine of: written here, read and built by `clst_runtime.backends.tensorrt`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from clst_export.card import card
from clst_export.inspection import facts_of
from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Frame
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.verification import Expected, check_frames, onnx_class_maps
from clst_runtime.backends.tensorrt.bundle.format import (
    BASELINE,
    BASELINE_EXPECTED,
    EXPECTED,
    FRAMES,
    INDEX,
    MODEL,
    Bundle,
    BundledModel,
)
from clst_runtime.errors import ModelFileError
from clst_runtime.imaging.image_files import write_png
from clst_runtime.system.files.atomic import folder_written_whole, write_text
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.paths import check_new_folder


def write_bundle(
    onnx_path: Path,
    out_dir: Path,
    frames: Sequence[Frame],
    *,
    options: BuildOptions | None = None,
    baseline: Path | None = None,
) -> Bundle:
    """Write the folder, whole or not at all.

    Args:
        onnx_path: a file of clst-export.
        out_dir: a folder that does not exist yet or is empty.
        frames: H,W,3 of the input size, on which the engine will be verified.
        options: how the device is to build; None = the defaults.
        baseline: of an int8 file, the fp16 file of the same checkpoint; the device uses the better one.

    Raises:
        DataError: `out_dir` holds something or cannot be written; no frames, or of another size.
        ModelFileError: an ONNX file cannot be used, or the two are not int8 and fp16 of one network.
        MissingDependency: ONNX Runtime is not installed.
    """
    manifest = read_onnx_manifest(onnx_path)
    check_frames(frames, manifest.input_hw)
    if baseline is not None:
        check_baseline(manifest, read_onnx_manifest(baseline), where=baseline)
    check_new_folder(out_dir, hint="remove it or give another --out")
    sources = [(onnx_path, MODEL, EXPECTED)]
    sources += [] if baseline is None else [(baseline, BASELINE, BASELINE_EXPECTED)]
    expected = [onnx_class_maps(source, frames) for source, _, _ in sources]
    with folder_written_whole(out_dir) as folder:
        models = [_add_model(folder, *source, maps) for source, maps in zip(sources, expected, strict=True)]
        bundle = Bundle(
            model=models[0],
            baseline=models[1] if baseline is not None else None,
            options=options or BuildOptions(),
            frame_sha256=_add_images(folder / FRAMES, frames),
        )
        write_text(folder / INDEX, json.dumps(bundle.to_json(), indent=1) + "\n")
        write_text(folder / "README.md", card(facts_of(folder) | {"path": str(out_dir)}))
    return bundle


def check_baseline(model: Manifest, baseline: Manifest, *, where: Path) -> None:
    """Refuse two files that are not alternatives: only int8 and fp16 of one network are.

    Raises:
        ModelFileError: other precisions, or another checkpoint, size or set of outputs.
    """

    def facts(manifest: Manifest) -> dict[str, object]:
        return {
            "precision": manifest.precision,
            "checkpoint": manifest.source_checkpoint_sha256[:12],
            "input size": manifest.input_hw,
            "fit": manifest.fit.value,
            "confidence": manifest.has_confidence,
        }

    own, other = facts(model), facts(baseline)
    first, second = own | {"precision": "int8"}, own | {"precision": "fp16"}
    for what in own:
        if (own[what], other[what]) != (first[what], second[what]):
            raise ModelFileError(
                f"{where} cannot be the model's baseline: {what} {other[what]} beside {own[what]}, expected "
                f"{second[what]} beside {first[what]}; export both from one checkpoint, as int8 and fp16"
            )


def _add_model(folder: Path, source: Path, file: str, expected_folder: str, expected: Expected) -> BundledModel:
    """Copy an ONNX file into the bundle and write its class maps beside it."""
    shutil.copyfile(source, folder / file)
    return BundledModel(
        file=file,
        expected_folder=expected_folder,
        sha256=file_sha256(folder / file),
        reference=expected.reference,
        expected_sha256=_add_images(folder / expected_folder, expected.maps),
    )


def _add_images(folder: Path, images: Sequence[Frame]) -> dict[str, str]:
    """Write frames H,W,3 or class maps H,W as PNG; their names and hashes."""
    digests = {}
    for index, image in enumerate(images):
        path = folder / f"{index:04d}.png"
        write_png(path, image)
        digests[path.name] = file_sha256(path)
    return digests
