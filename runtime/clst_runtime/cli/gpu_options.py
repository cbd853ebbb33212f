"""The options of every command that may run an engine: how its frames and its work reach the GPU."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from clst_runtime.backends.cuda.options import GpuOptions

NAMES = ("io", "cuda", "cuda_graph")


def cuda_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--cuda`."""
    return click.option("--cuda", default="auto", show_default=True,
                        help="Library that calls the GPU for an engine: pycuda, cuda-python, or whichever is there.",
                        )(command)  # fmt: skip


def gpu_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--io`, `--cuda` and `--cuda-graph`."""
    for option in (
        click.option("--cuda-graph", is_flag=True, help="Launch an engine's work as one graph (needs cuda-python)."),
        cuda_option,
        click.option("--io", default="auto", show_default=True,
                     help="How frames reach an engine: copy, mapped (GPU and processor share memory)."),
    ):  # fmt: skip
        command = option(command)
    return command


def gpu_of(options: Mapping[str, Any]) -> GpuOptions:
    """What they say; raises as `GpuOptions`."""
    from clst_runtime.backends.cuda.options import GpuOptions

    return GpuOptions(io=options["io"], cuda=options["cuda"], graph=options["cuda_graph"])
