"""Which files an export makes of which checkpoint, and what can be found wrong before PyTorch is imported."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clst_export.card import card_path
from clst_runtime.backends.cuda.device import check_library
from clst_runtime.backends.tensorrt.bundle.format import INDEX
from clst_runtime.backends.tensorrt.sidecar import sidecar_path
from clst_runtime.data.dataset import check_dataset
from clst_runtime.data.inputs import check_place
from clst_runtime.errors import ConfigError, DataError, ModelFileError
from clst_runtime.system.files.atomic import check_can_write
from clst_runtime.system.files.json_values import field, name
from clst_runtime.system.files.paths import check_checkpoint
from clst_runtime.system.numbers import parse_size

_log = logging.getLogger(__name__)


def newest_checkpoint(runs: Path = Path("runs")) -> Path:
    """The newest run's adapted checkpoint, else its source checkpoint; says on stderr which.

    Raises:
        ModelFileError: there is none.
    """
    found = sorted(runs.glob("*/checkpoints/*.pt"), key=lambda path: path.stat().st_mtime)
    results = [path for path in found if path.stem in ("adapted", "source")]
    if not results:
        raise ModelFileError(f"no checkpoint given and none below {runs.resolve()}; train one with clst-train")
    adapted = results[-1].with_name("adapted.pt")
    chosen = adapted if adapted.is_file() else results[-1]
    _log.info(f"taking the newest run's checkpoint, {chosen}")
    return chosen


def output_paths(checkpoint: Path, precision: str, trt: str | None, options: Mapping[str, Any]) -> dict[str, Path]:
    """Files to make: `onnx` always, `engine` beside it for --trt, `bundle` the folder that it goes into and is gone.

    For an int8 engine or bundle also `baseline_onnx`, and `baseline_engine` for --trt: the same as fp16; not of an
    engine for RTX, which is for several kinds of GPUs.
    """
    flavour = {"fp32": "", "fp16": ".fp16", "int8": ".int8"}[precision]
    flavour += {"tensorrt": "", "rtx": "-rtx", "cpu": "-cpu"}[options["target"]]
    stem = checkpoint.with_name(checkpoint.stem + flavour)
    out = options["out"]
    if options["bundle"]:
        folder = out or stem.with_name(stem.name + ".bundle")
        names = {"onnx": "for-bundle"} | ({"baseline_onnx": "fp16-for-bundle"} if precision == "int8" else {})
        return {"bundle": folder} | {key: folder.with_name(f"{folder.name}-{name}.onnx") for key, name in names.items()}
    if trt is None:
        return {"onnx": out or stem.with_name(stem.name + ".onnx")}
    engine = out or stem.with_name(stem.name + ".engine")
    paths = {"engine": engine, "onnx": engine.with_suffix(".onnx")}
    if precision == "int8" and options["target"] != "rtx":
        paths |= {
            "baseline_engine": engine.with_suffix(".fp16.engine"),
            "baseline_onnx": engine.with_suffix(".fp16.onnx"),
        }
    return paths


def check_outputs(checkpoint: Path, paths: Mapping[str, Path], *, overwrite: bool) -> None:
    """Find out before any work that a file cannot be made, engines' manifests and cards among them.

    Raises:
        DataError: its name is of another kind of file or the checkpoint's own; it is there already and may not be
            overwritten (a folder that holds something never may); or its folder cannot be written.
    """
    _check_names(checkpoint, paths)
    folder = paths.get("bundle")
    if overwrite and folder is not None and folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} is a folder with files, which --overwrite does not replace; remove it first")
    beside = [sidecar_path(path) for path in paths.values() if path.suffix == ".engine"]
    beside += [card_path(path) for key, path in paths.items() if key.endswith("onnx")]
    for path in [*paths.values(), *beside]:
        if path.exists() and not overwrite:
            why = ", and the engine's ONNX file gets that name" if "engine" in paths and path == paths["onnx"] else ""
            raise DataError(f"{path} exists{why}; give --overwrite or another --out")
        check_can_write(path / INDEX if path == folder else path)


def _check_names(checkpoint: Path, paths: Mapping[str, Path]) -> None:
    """Commands tell a model file's kind by its suffix.

    Raises:
        DataError: as `check_outputs`.
    """
    for path in paths.values():
        if path.resolve() == checkpoint.resolve():
            raise DataError(f"{path} is the checkpoint itself; give another --out")
    if "engine" in paths and paths["engine"].suffix != ".engine":
        raise DataError(f"{paths['engine']}: an engine's name ends in .engine; give another --out")
    if paths["onnx"].suffix.lower() != ".onnx":
        raise DataError(f"{paths['onnx']}: an ONNX file's name ends in .onnx; give another --out")


def check_given(checkpoint: Path, options: Mapping[str, Any]) -> None:
    """The checkpoint, the CUDA library, the size, the licence and the places of images that the command was given.

    Raises:
        ClstError: one is missing or cannot be used.
    """
    check_library(options["cuda"], graphs=False)
    if checkpoint.is_dir():
        raise ModelFileError(
            f"{checkpoint}: not the folder of a run (config.toml, checkpoints/); give one or a .pt file"
        )
    check_checkpoint(checkpoint)
    if options["size"] is not None:
        parse_size(options["size"])
    if options["licence"] is not None:
        try:
            field(options, "licence", name)
        except ValueError as error:
            raise ConfigError(f"{error}; give its name or address in one line") from error
    if options["data"] is not None:
        check_dataset(options["data"], split=options["split"], mapping_file=options["mapping"])
    for place in (options["frames_from"], *map(Path, options["calib"])):
        if place is not None:
            check_place(place)
    if options["timing_cache"] is not None:
        check_can_write(options["timing_cache"])
