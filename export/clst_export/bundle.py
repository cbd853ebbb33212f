"""The folder that a device makes its engine of: written here, read and built by `clst_runtime.engines.bundle`."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from clst_runtime.atomic import write_text
from clst_runtime.backends.base import Frame
from clst_runtime.engines.bundle import EXPECTED, FRAMES, INDEX, MODEL, Bundle, build_bundle, read_bundle
from clst_runtime.engines.options import BuildOptions
from clst_runtime.engines.verification import check_frames, onnx_class_maps
from clst_runtime.errors import DataError
from clst_runtime.images import write_png
from clst_runtime.manifest import Manifest
from clst_runtime.onnx_metadata import file_sha256, read_onnx_manifest

__all__ = ["build_bundle", "read_bundle", "write_bundle"]

README = """\
{network}, {rows}x{columns}, {precision}: a model on its way to the device that runs it.

On the device, with TensorRT 10.3 to 11.x, PyCUDA and clst[trt] installed:

    clst-export build {name}

builds an engine for that GPU and TensorRT version, compares it with the {frames} class maps in expected/ and keeps it
here. clst-run {name} --source camera:0 does the same on its first start. Without TensorRT or a GPU, model.onnx runs
with ONNX Runtime: clst-run {name}/model.onnx --source camera:0
"""


def write_bundle(
    onnx_path: Path, out_dir: Path, frames: Sequence[Frame], *, options: BuildOptions | None = None
) -> Bundle:
    """Write the folder, whole or not at all.

    Args:
        onnx_path: a file of clst-export.
        out_dir: a folder that does not exist yet or is empty.
        frames: pictures H,W,3 of the input size that the engine will be verified on.
        options: how the device is to build; None = the defaults.

    Raises:
        DataError: `out_dir` holds something or cannot be written; no frames, or of another size.
        ModelFileError: the ONNX file cannot be used. MissingDependency: ONNX Runtime is not installed.
    """
    manifest = read_onnx_manifest(onnx_path)
    check_frames(frames, manifest.input_hw)
    if out_dir.exists() and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise DataError(f"{out_dir} exists and is not empty; remove it or give another --out")
    expected = onnx_class_maps(onnx_path, frames)
    try:
        out_dir.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}-", dir=out_dir.parent))
    except OSError as error:
        raise DataError(f"cannot write {out_dir}: {error.strerror or error}; give another --out") from error
    try:
        shutil.copyfile(onnx_path, folder / MODEL)
        names = [f"{index:04d}.png" for index in range(len(frames))]
        for name, frame, classes in zip(names, frames, expected.maps, strict=True):
            write_png(folder / FRAMES / name, frame)
            write_png(folder / EXPECTED / name, classes)
        bundle = Bundle(
            model_sha256=file_sha256(folder / MODEL),
            reference=expected.reference,
            options=options or BuildOptions(),
            frame_sha256={name: file_sha256(folder / FRAMES / name) for name in names},
            expected_sha256={name: file_sha256(folder / EXPECTED / name) for name in names},
        )
        write_text(folder / "README.txt", _readme(manifest, out_dir.name, len(frames)))
        write_text(folder / INDEX, json.dumps(bundle.to_json(), indent=1) + "\n")
        _take_name(folder, out_dir)
    except OSError as error:
        raise DataError(f"cannot write {out_dir}: {error.strerror or error}; nothing was left behind") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return bundle


def _readme(manifest: Manifest, name: str, frames: int) -> str:
    rows, columns = manifest.input_hw
    return README.format(
        network=manifest.network, rows=rows, columns=columns, precision=manifest.precision, name=name, frames=frames
    )


def _take_name(folder: Path, out_dir: Path) -> None:
    """Give the finished folder its name and the rights of a folder made the usual way."""
    probe = folder / FRAMES
    os.chmod(folder, probe.stat().st_mode)
    os.replace(folder, out_dir)
