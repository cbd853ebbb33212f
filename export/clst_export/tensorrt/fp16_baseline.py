"""The FP16 file and engine that an INT8 export is compared with: of the same checkpoint and images.

INT8 loses accuracy, so it is used only where it is faster than FP16 on the GPU that runs it (docs/decisions/0007).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from clst_export.pipeline import Log, Request, TracedNetwork, write_model
from clst_runtime.backends.base import Frame
from clst_runtime.backends.cuda.device import GpuOutOfMemory
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.check import describe_build_check
from clst_runtime.backends.tensorrt.build.engine import build_engine, built_engine_note
from clst_runtime.backends.tensorrt.build.options import BuildOptions
from clst_runtime.backends.tensorrt.build.progress import show_progress
from clst_runtime.backends.tensorrt.bundle.comparison import compare_times
from clst_runtime.backends.tensorrt.bundle.proof import VERDICTS, Outcome, Proof
from clst_runtime.backends.tensorrt.sidecar import read_engine
from clst_runtime.errors import BudgetNotHeld


def write_baseline(network: TracedNetwork, out: Path, request: Request, *, log: Log) -> Path | None:
    """Write the FP16 file beside an INT8 one; None where it does not pass the parity gate, which is logged.

    Args:
        network: what the INT8 file was made from.
        out: the file to write.
        request: for FP16.
        log: called with one line for each step.

    Raises:
        What `write_model` raises, except BudgetNotHeld.
    """
    log("making the fp16 file to compare int8 with")
    try:
        conversion = write_model(network, out, request, log=log)
    except BudgetNotHeld as error:
        log(f"int8 goes without fp16 to compare with: {error.message}")
        return None
    log(f"{out.name}: {100 * conversion.comparison.agreement:.4f} % of the pixels equal PyTorch's")
    if "layers" in conversion.manifest.build_check:
        log(f"{out.name}: {describe_build_check(conversion.manifest.build_check)}")
    return out


def build_baseline(
    int8: Path, onnx: Path, fp16: Path, frames: Sequence[Frame], *, options: BuildOptions, gpu: GpuOptions, log: Log
) -> None:
    """Build the FP16 engine beside a finished INT8 one, time both interleaved, and log which to prefer.

    Args:
        int8: the INT8 engine, with its manifest.
        onnx: the FP16 file.
        fp16: the FP16 engine to write.
        frames: H,W,3 of the input size.
        options: how the INT8 engine was built.
        gpu: the CUDA library and the I/O that both are verified and timed with.
        log: called with the result, also when FP16 cannot be built; the INT8 engine then stays as it is.

    Raises:
        What `build_engine` raises of faults that are not the FP16 engine's own.
    """
    manifest = read_engine(int8)[1]
    ours = Outcome.proved(int8, manifest)
    try:
        built = build_engine(onnx, fp16, options=options, frames=frames, progress=show_progress(), gpu=gpu)
    except (*VERDICTS, GpuOutOfMemory) as error:
        log(f"FP16 cannot be used on this GPU ({error.message}), prefer {int8}")
        return
    log(f"{fp16}: {built_engine_note(built)}")
    engines = compare_times(int8.parent, (ours, Outcome.proved(fp16, built)), frames, gpu)
    proof = Proof(machine={}, options={}, engines=tuple(engines))
    if proof.used is not None:
        log(f"{proof.why}, prefer {int8.with_name(proof.used.engine)}")
