"""The FP16 file and engine that an INT8 export is compared with: of the same checkpoint and pictures.

INT8 loses accuracy, so it has to be faster than FP16 on the GPU that runs it; docs/decisions/0007.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clst_export.inputs import baseline_request
from clst_export.pipeline import Material, Request, Say, convert
from clst_export.tensorrt.engine import BuildOptions, build_engine, built_engine_note, show_progress
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.device import GpuOutOfMemory
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.check import told_build_check
from clst_runtime.backends.tensorrt.bundle.comparison import compare_times
from clst_runtime.backends.tensorrt.bundle.proof import VERDICTS, Outcome, Proof
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld


def convert_baseline(
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
        conversion = convert(checkpoint, out, baseline_request(request, options), material, say=say)
    except BudgetNotHeld as error:
        say(f"int8 goes without fp16 to compare with: {error.message}")
        return None
    say(f"{out.name}: {100 * conversion.verdict.agreement:.4f} % of the pixels equal PyTorch's")
    if "layers" in conversion.manifest.build_check:
        say(f"{out.name}: {told_build_check(conversion.manifest.build_check)}")
    return out


def build_baseline(
    int8: Path, onnx: Path, fp16: Path, frames: Sequence[Frame], *, options: BuildOptions, gpu: GpuOptions, say: Say
) -> None:
    """Build the FP16 engine beside a finished INT8 one, time both in turns, and say which of them to prefer.

    Args:
        int8: the INT8 engine, with its manifest.
        onnx: the FP16 file.
        fp16: the FP16 engine to write.
        frames: pictures H,W,3 of the input size.
        options: how the INT8 engine was built.
        gpu: the CUDA library and the I/O that both are proved and timed by.
        say: told the result, also that FP16 cannot be built, which leaves the INT8 engine as it is.

    Raises:
        What `build_engine` raises of faults that are not the FP16 engine's own.
    """
    manifest = read_engine(int8)[1]
    ours = Outcome.proved(int8, manifest)
    try:
        built = build_engine(onnx, fp16, options=options, frames=frames, progress=show_progress(), gpu=gpu)
    except (*VERDICTS, GpuOutOfMemory) as error:
        say(f"FP16 cannot be used on this GPU ({error.message}), prefer {int8}")
        return
    say(f"{fp16}: {built_engine_note(built)}")
    engines = compare_times(int8.parent, (ours, Outcome.proved(fp16, built)), frames, gpu)
    proof = Proof(machine={}, options={}, engines=tuple(engines))
    if proof.used is not None:
        say(f"{proof.why}, prefer {int8.with_name(proof.used.engine)}")
