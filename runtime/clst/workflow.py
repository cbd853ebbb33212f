"""Training and export from Python: the same settings, checks and results as `clst-train` and `clst-export`."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.errors import ConfigError, did_you_mean
from clst_runtime.system.files.paths import checkpoint_of
from clst_runtime.system.optional import check_installed, require

if TYPE_CHECKING:
    from clst_export.verification.evaluator import Comparison
    from clst_train.engine.run_folder import RunFolder

_logger = logging.getLogger("clst")
RECIPE = "new_camera"


def train(
    *,
    source: str | Path | None = None,
    target: str | Path | Sequence[str | Path] | None = None,
    out: str | Path | None = None,
    recipe: str | Path = RECIPE,
    init: str | Path | None = None,
    trust_pickle: bool = False,
    network: str | None = None,
    classes: str | Path | None = None,
    pretrained: str | Path | None = None,
    resume: str | Path | None = None,
    settings: Mapping[str, object] | None = None,
) -> RunFolder:
    """Train on labelled images of the old camera, then adapt to unlabelled images of the new one.

    Needs the extra `train`. It seeds the random generators and sets the threads of this process, as the command does.
    Ctrl-C finishes and saves the step at hand and raises `KeyboardInterrupt`, which says how to go on.

    Args:
        source: data set of the old camera.
        target: images or videos of the new camera; none = stop after source training.
        out: run folder to make; None = `runs/<date>-<time>`.
        recipe: a shipped recipe or a TOML file.
        init: the old network, instead of source training: a checkpoint, a run's folder, or weights for `network`.
        trust_pickle: let `init` be a pickled module or TorchScript; unpickling runs any code in the file.
        network: a built-in network, or your own as `package.module:factory`; None = the recipe's, or the checkpoint's.
        classes: the model's classes in the order of their ids, a shipped list or a JSON file; None = the source's.
        pretrained: weights that source training starts from: `auto`, `none` or a file; None = the recipe's.
        resume: run folder to go on with; give it alone.
        settings: values on top of the recipe, e.g. `{"adaptation.iterations": 100, "data.val": "labelled"}`.

    Returns the run's folder: `path`, and the checkpoints `source` and, with a target, `adapted`.

    Raises:
        ConfigError, DataError, ModelFileError: a setting, a data set or a checkpoint cannot be used; what can be known
            without PyTorch is found before its import. MissingDependency: no extra `train`. BudgetNotHeld: `run.gate`.
    """
    _check_is_name(network)
    texts = {"source": source, "network": network, "classes": classes, "pretrained": pretrained}
    options: dict[str, Any] = {name: str(value) for name, value in texts.items() if value is not None} | {
        "target": _places(target),
        "trust_pickle": trust_pickle or None,
        "settings": tuple(_as_toml(name, value) for name, value in (settings or {}).items()),
    }
    options = {name: value for name, value in options.items() if value not in (None, ())}
    if resume is not None and (options or out or init or recipe != RECIPE):
        raise ConfigError(f"resume = {os.fspath(resume)!r} goes on with the run as it was configured; give it alone")
    _check_packages("clst_train")
    from clst_train.engine.options import check_run
    from clst_train.engine.stopping import heeding_signals

    places = {"out": _path(out), "init": _path(init), "resume": _path(resume)}
    check_run(str(recipe), **places, options=options)
    require("torch")
    from clst_train.inspection.verdict import check_gate
    from clst_train.training import start_run

    with heeding_signals():
        return check_gate(start_run(recipe=str(recipe), **places, options=options))


def _check_is_name(network: object) -> None:
    if not isinstance(network, (str, type(None))):
        kind = type(network).__name__
        raise ConfigError(
            f"network is a {kind}; give a name, 'package.module:factory': checkpoints keep it to build the network"
        )


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model file that was written, and how it compares with PyTorch."""

    path: Path
    """The ONNX file."""
    manifest: Manifest
    """What stands in it."""
    comparison: Comparison
    """Pixels that agree with PyTorch (`agreement`, 0–1) and, with labels, mIoU of both and the `drop`."""


def export(
    checkpoint: str | Path,
    out: str | Path | None = None,
    *,
    precision: str = "fp32",
    target: str = "tensorrt",
    size: tuple[int, int] | str | None = None,
    confidence: bool = False,
    frames: str | Path | None = None,
    data: str | Path | None = None,
    split: str = "val",
    mapping: str | Path | None = None,
    calib: str | Path | Sequence[str | Path] | None = None,
    max_miou_drop: float | None = None,
    licence: str | None = None,
    overwrite: bool = False,
) -> Exported:
    """Write a checkpoint as an ONNX file, compared with PyTorch, and its model card beside it.

    Engines and bundles are made by `clst-export`.

    Needs the extra `export` and ONNX Runtime.

    Args:
        checkpoint: a `.pt` file of training, or a run's folder.
        out: the file to write, `NAME.onnx`; the card is `NAME.md`. None = beside the checkpoint.
        precision: `fp32`, `fp16` or `int8`.
        target: int8: whether the graph is for `tensorrt` or for ONNX Runtime's `cpu`.
        size: rows and columns of the input, or text like `360x480`; None = the checkpoint's.
        confidence: add the probability of the winner as a second output.
        frames: images or a video to compare on; None = the target of the checkpoint's run, else synthetic scenes.
        data: labelled images to compare on by mIoU, instead of `frames`.
        split: which split of `data`.
        mapping: JSON file relating the classes of `data` to the model's.
        calib: images or videos of the camera to calibrate int8 on; none = the target of the checkpoint's run.
        max_miou_drop: int8: points of mIoU that may be lost, 0–100.
        licence: of the weights, a line for the model card.
        overwrite: replace existing files.

    Raises:
        ConfigError, DataError, ModelFileError: an argument, images or the checkpoint cannot be used.
        BudgetNotHeld: the result is not close enough to PyTorch; it is kept as `NAME.rejected.onnx` with a report.
        MissingDependency: the extra `export` is not installed.
    """
    options = {
        "target": target,
        "out": _path(out),
        "size": size if size is None or isinstance(size, str) else "x".join(map(str, size)),
        "confidence": confidence,
        "frames_from": _path(frames),
        "data": _path(data),
        "split": split,
        "mapping": _path(mapping),
        "calib": _places(calib),
        "max_miou_drop": max_miou_drop,
        "licence": licence,
    }
    _check_export(precision, options)
    return _convert(checkpoint_of(Path(checkpoint)), precision, {**_OTHER_OPTIONS, **options}, overwrite=overwrite)


_OTHER_OPTIONS: Mapping[str, Any] = {
    "opset": "19",
    "count": None,
    "calib_count": None,
    "calib_method": "best",
    "min_agreement": None,
    "bundle": False,
    "timing_cache": None,
    "cuda": "auto",
}
"""Options of `clst-export` that have no argument here, with its defaults."""


def _check_export(precision: str, options: Mapping[str, Any]) -> None:
    """Raises: ConfigError: an argument is unknown, out of range or contradicts another one."""
    _one_of("precision", precision, ("fp32", "fp16", "int8"))
    _one_of("target", options["target"], ("tensorrt", "cpu"))
    drop = options["max_miou_drop"]
    if precision != "int8" and (options["target"] != "tensorrt" or drop is not None):
        raise ConfigError(f"target and max_miou_drop are for int8, not for {precision}; leave them out")
    if drop is not None and not 0 <= drop <= 100:
        raise ConfigError(f"max_miou_drop = {drop}; give 0 to 100")
    if options["mapping"] is not None and options["data"] is None:
        raise ConfigError(f"mapping = '{options['mapping']}' relates the classes of data; give both")


def _convert(checkpoint: Path, precision: str, options: Mapping[str, Any], *, overwrite: bool) -> Exported:
    _check_packages("clst_export", "clst_train")
    from clst_export.outputs import check_given, check_outputs, output_paths

    paths = output_paths(checkpoint, precision, None, options)
    check_outputs(checkpoint, paths, overwrite=overwrite)
    check_given(checkpoint, options)
    require("torch")
    from clst_export.inputs import collect
    from clst_export.pipeline import convert
    from clst_train.models.checkpoint import load_checkpoint

    loaded = load_checkpoint(checkpoint)
    request, inputs = collect(loaded, precision, options)
    conversion = convert(loaded, paths["onnx"], request, inputs, log=_logger.info)
    return Exported(path=paths["onnx"], manifest=conversion.manifest, comparison=conversion.comparison)


def _path(given: str | Path | None) -> Path | None:
    return None if given is None else Path(given)


def _places(given: str | Path | Sequence[str | Path] | None) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, (str, Path)) else tuple(map(str, given or ()))


def _check_packages(*names: str) -> None:
    """Raises: MissingDependency: something that one of our packages needs cannot be imported."""
    for name in names:
        check_installed(*require(name).PACKAGES)


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise ConfigError(f"{name} = {value!r}; {did_you_mean(str(value), known)}")


def _as_toml(name: str, value: object) -> str:
    """`section.key=value` as `--set` has it. Raises: ConfigError: no value of TOML."""
    try:
        if value is None or "=" in name:
            raise TypeError
        return f"{name}={json.dumps(os.fspath(value) if isinstance(value, Path) else value, ensure_ascii=False)}"
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"settings[{name!r}] = {value!r}; give section.key a number, text, truth value or list"
        ) from error
