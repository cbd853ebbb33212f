"""The FP16 rival of an INT8 export: made of the same checkpoint and pictures, and timed beside it.

INT8 loses accuracy, so it has to be faster than FP16 on the GPU that runs it; docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clst_export.convert import Material, Request, Say, convert
from clst_export.engine import BuildOptions, build_engine, built_engine_note, show_progress
from clst_export.material import rival_request
from clst_runtime.backends.base import Frame
from clst_runtime.backends.gpu_options import GpuOptions
from clst_runtime.engines.rivals import COMMON_FAULTS, Choice, Contender, contender, decide, failed
from clst_runtime.engines.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld, ClstError
from clst_runtime.hashing import file_sha256


def convert_rival(
    checkpoint: Path, out: Path, request: Request, material: Material, options: Mapping[str, Any], *, say: Say
) -> Path | None:
    """Write the FP16 file beside an INT8 one; None, and said, where it does not prove itself.

    Args:
        checkpoint: what the INT8 file was made of.
        out: the file to write.
        request: what was asked of the INT8 file.
        material: the same pictures.
        options: the command's options by their parameter names.
        say: told what is being done.

    Raises:
        What `convert` raises, but for BudgetNotHeld.
    """
    say("making the fp16 file to compare int8 with")
    try:
        conversion = convert(checkpoint, out, rival_request(request, options), material, say=say)
    except BudgetNotHeld as error:
        say(f"int8 goes without an fp16 rival: {error.message}")
        return None
    say(f"{out.name}: {100 * conversion.verdict.agreement:.4f} % of the pixels equal PyTorch's")
    return out


def build_rival(
    engine: Path,
    rival_onnx: Path,
    rival: Path,
    frames: Sequence[Frame],
    *,
    options: BuildOptions,
    gpu: GpuOptions,
    say: Say,
) -> Choice:
    """Build the FP16 engine beside a finished INT8 one, time both in turns and note the result in both manifests.

    Args:
        engine: the INT8 engine, with its manifest.
        rival_onnx: the FP16 file.
        rival: the FP16 engine to write.
        frames: pictures H,W,3 of the input size.
        options: how the INT8 engine was built.
        gpu: the CUDA library and the I/O that both are proven and timed by.
        say: told the result, also that the rival cannot be built, which leaves the INT8 engine as it is.

    Raises:
        What `build_engine` raises for faults that the INT8 engine would share: of the machine, the settings, the disk.
    """
    fp16 = _built(rival_onnx, rival, frames, options, gpu, say)
    int8 = contender(engine, read_engine(engine)[1])
    say("timing the INT8 and the FP16 engine in turns")
    choice = decide(engine.parent, int8, fp16, frames, options=options.to_json(), gpu=gpu)
    say(f"{choice.why}, prefer {engine.with_name(choice.preferred.engine)}")
    return choice


def _built(
    onnx: Path, engine: Path, frames: Sequence[Frame], options: BuildOptions, gpu: GpuOptions, say: Say
) -> Contender:
    try:
        manifest = build_engine(onnx, engine, options=options, frames=frames, progress=show_progress(), gpu=gpu)
    except COMMON_FAULTS:
        raise
    except ClstError as error:
        return failed(engine, file_sha256(onnx), error)
    say(f"{engine}: {built_engine_note(manifest)}")
    return contender(engine, manifest)
