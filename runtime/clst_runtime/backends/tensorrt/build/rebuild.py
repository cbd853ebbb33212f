"""An engine of another GPU or TensorRT, or a damaged one, is built again here from the ONNX file beside it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.artifact.onnx_metadata import read_onnx_manifest
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.engine import build_engine
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import BuildProgress, show_progress
from clst_runtime.backends.tensorrt.sidecar import sidecar_path
from clst_runtime.errors import DataError, ModelFileError
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.json_values import read_text

_log = logging.getLogger(__name__)

FRAMES = 8
"""Images that a rebuilt engine is compared with its ONNX file on."""


def rebuild_engine(
    engine: Path,
    frames: Callable[[Manifest], Sequence[Frame]],
    *,
    progress: BuildProgress | None = None,
    gpu: GpuOptions | None = None,
) -> Manifest:
    """Build an engine again for this machine, as it was built before, and write it under the same name.

    Its ONNX file is the one beside it whose SHA-256 the engine's manifest holds. Without a readable manifest it is the
    one of the same name, and the options are the usual ones.

    Args:
        engine: the `.engine` file; need not be there or be whole.
        frames: gives images H,W,3 of the model's input size for a model to verify the engine on.
        progress: shows the build; None = bars or lines on stderr.
        gpu: the CUDA library and the I/O that the engine is proven by.

    Returns:
        The new engine's manifest.

    Raises:
        ModelFileError: there is no such ONNX file beside it, or it is damaged.
        What `build_engine` raises; the old engine is left as it is then.
    """
    model, options = origin_of(engine)
    verified_on = frames(read_onnx_manifest(model))
    label, takes = options.library.label, options.library.takes
    _log.info(f"building {engine.name} of {model.name} for this GPU and {label}; this takes {takes}")
    return build_engine(
        model, engine, options=options, frames=verified_on, progress=progress or show_progress(), gpu=gpu
    )


def origin_of(engine: Path) -> tuple[Path, BuildOptions]:
    """The ONNX file that an engine was built from, and how.

    Raises:
        ModelFileError: it is not beside the engine. ConfigError: the manifest's build options are not understood.
    """
    beside, same_name = sidecar_path(engine), engine.with_suffix(".onnx")
    try:
        facts = Manifest.from_json(read_text(beside), where=str(beside)).engine
        wanted, options = facts["onnx_sha256"], facts.get("options", {})
    except (DataError, KeyError, ModelFileError) as error:
        if not same_name.is_file():
            raise ModelFileError(
                f"{engine}: its manifest {beside.name} cannot be read, and there is no {same_name.name} to build it "
                "from; copy one of them here"
            ) from error
        return same_name, BuildOptions()
    others = sorted(path for path in engine.parent.glob("*.onnx") if path != same_name)
    for path in (same_name, *others):
        if path.is_file() and file_sha256(path) == wanted:
            return path, BuildOptions.from_json(options, where=str(beside))
    raise ModelFileError(
        f"{engine}: the ONNX file it was built from (SHA-256 {wanted[:12]}…) is not in {engine.parent}; copy it there, "
        "or build another model's engine with clst-export --trt"
    )
