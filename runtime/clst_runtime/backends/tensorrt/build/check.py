"""TensorRT for RTX reads an ONNX file and builds an engine of it: an answer about the file, the engine is thrown away.

In a process of its own, so that a crash, its memory and 250 MB of libraries are not those of the program that asks.
The answer is a JSON object, as it stands in the manifest:

    {"builder": …, "version": …, "seconds": …, "layers": {type: count}, "engine_bytes": …}     it was built
    {"builder": …, "version": …, "refused": reason}                                            it cannot be
    {"builder": …, "not_checked": reason}                                                      not possible here
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from clst_runtime.backends.tensorrt.rtx.library import find_rtx
from clst_runtime.errors import MissingDependency, message_of
from clst_runtime.system.programs import Runner, ask_python, run_program

BUILDER = "TensorRT for RTX"
LONGEST_SECONDS = 600.0
"""Builds of this project's networks take seconds."""


def check_build(
    path: Path, *, report: Callable[[str], None] = lambda text: None, run: Runner = run_program
) -> dict[str, Any]:
    """What TensorRT for RTX makes of an ONNX file; never an error. `report` is called when the check begins."""
    try:
        find_rtx()
    except MissingDependency as error:
        return _not_checked(error.message)
    report(f"reading and building it with {BUILDER}")
    found = ask_python(__name__, str(path), seconds=LONGEST_SECONDS, run=run)
    return found or _not_checked(
        f"its process crashed or was killed, as where memory runs out, or took longer than {LONGEST_SECONDS:.0f} s"
    )


def _not_checked(why: str) -> dict[str, Any]:
    return {"builder": BUILDER, "not_checked": why}


def main(arguments: list[str]) -> None:
    """In that process: build, and print the answer."""
    os.environ["CUDA_VISIBLE_DEVICES"] = ""  # the answer is about the file, not about the GPU that this machine has
    (path,) = arguments
    try:
        found = _built(Path(path))
    except Exception as error:  # noqa: BLE001  (whatever goes wrong is part of the answer, the export goes on)
        found = _not_checked(message_of(error).replace(path, "it"))  # its name is of a temporary file
    sys.stdout.write(f"\n{json.dumps(found)}\n")


def _built(path: Path) -> dict[str, Any]:
    from clst_runtime.backends.tensorrt.build.builder import RefusedByTensorrt, serialise_engine
    from clst_runtime.backends.tensorrt.build.options import BuildOptions
    from clst_runtime.backends.tensorrt.build.progress import BuildProgress
    from clst_runtime.backends.tensorrt.library import Library

    trt = Library.RTX.load()
    facts: dict[str, Any] = {"builder": Library.RTX.label, "version": str(trt.__version__)}
    try:
        built = serialise_engine(trt, path, BuildOptions(library=Library.RTX), BuildProgress())
    except RefusedByTensorrt as error:
        if "Cuda Runtime" in error.reason or "cudaError" in error.reason:  # of a GPU that it ought not to need
            return _not_checked(error.reason)
        return facts | {"refused": error.reason}
    return facts | {"seconds": round(built.seconds, 2), "layers": dict(built.layers), "engine_bytes": len(built.plan)}


def describe_build_check(answer: Mapping[str, Any]) -> str:
    """An answer in one line; empty where there is none."""
    builder = " ".join(str(answer[name]) for name in ("builder", "version") if name in answer)
    if "refused" in answer:
        return f"{builder} {answer['refused']}"
    if "not_checked" in answer:
        return f"whether {builder} reads and builds it was not checked: {answer['not_checked']}"
    if "layers" not in answer:
        return ""
    return f"{builder} reads and builds it: {sum(answer['layers'].values())} layers in {answer['seconds']:.1f} s"
