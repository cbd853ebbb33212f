"""What a user's network fails by, and where: its layer, or the line of its code."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

FAILURES = (
    RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError, ArithmeticError, OSError,
    ImportError, SystemExit,
)  # fmt: skip
"""What a network raises that cannot take an image."""
LONGEST = 160
"""Characters of a reason that are shown."""
_OURS = (str(Path(torch.__file__).parent), str(Path(__file__).parents[1]))
_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in .*\n\s*(?P<code>.*)')


def reason(error: BaseException) -> str:
    """The first line of an error's text."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:LONGEST]


def first_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:LONGEST]}".removesuffix(": ")


@dataclass
class Work:
    """What a network is doing."""

    layers: list[str] = field(default_factory=list)
    """Paths of the modules at work, the innermost last; after an error, of those that did not finish."""
    images: tuple[int, ...] = ()
    """Shape N,3,H,W of the images that it was last given."""
    warned: list[warnings.WarningMessage] = field(default_factory=list)
    """Warnings so far."""

    def place(self, error: BaseException) -> str:
        """Where it failed: a layer, a line of the network's code, or the backward pass of one; empty = not known."""
        if self.layers and self.layers[-1]:
            return f", in its layer {self.layers[-1]!r}"
        if self.layers:
            return _code(traceback.format_tb(error.__traceback__))
        traced = [str(each.message) for each in self.warned if "Traceback of forward" in str(each.message)]
        if not traced:
            return ""
        operator = re.sub("^Error detected in |Backward.*", "", traced[0].splitlines()[0])
        return f", in the backward pass of {operator}{_code(traced[:1])}"


def _code(frames: Sequence[str]) -> str:
    """The innermost line of a traceback that is neither PyTorch's nor this project's."""
    found = [each for frame in frames for each in _FRAME.finditer(frame) if not each["file"].startswith(_OURS)]
    if not found:
        return ""
    return f", at `{found[-1]['code']}` ({Path(found[-1]['file']).name}, line {found[-1]['line']})"


@contextmanager
def failing_layer(network: nn.Module) -> Iterator[Work]:
    """Inside, forward passes of the network are followed; what they leave open after an error is where it arose."""
    work = Work()

    def enters(path: str, inputs: tuple[object, ...]) -> None:
        work.layers.append(path)
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() == 4 and inputs[0].shape[1] == 3:
            work.images = tuple(inputs[0].shape)

    def leaves(*_: object) -> None:
        work.layers.pop()

    hooks = []
    for path, module in network.named_modules():
        hooks.append(module.register_forward_pre_hook(lambda _, inputs, path=path: enters(path, inputs)))
        hooks.append(module.register_forward_hook(leaves))
    try:
        yield work
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def failing_step(network: nn.Module) -> Iterator[Work]:
    """`failing_layer`, for backward passes too: those take several times as long, and warnings are kept from people."""
    with warnings.catch_warnings(record=True) as warned, failing_layer(network) as work:
        warnings.simplefilter("always")
        work.warned = warned
        with torch.autograd.set_detect_anomaly(True, check_nan=False):
            yield work
