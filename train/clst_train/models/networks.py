"""Networks by their names: the built-in ones, any factory of a Python module, and those of other libraries."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from clst_runtime.errors import ConfigError, MissingDependency
from clst_train.config import ModelConfig
from clst_train.models.ddrnet import DDRNetSlim
from clst_train.models.deeplab import DeepLabV2
from clst_train.models.efficientnet_lite import SCALES, EfficientNetLiteSegmenter
from clst_train.models.segmenter import Segmenter
from clst_train.models.specification import NetworkName, parse_network
from clst_train.models.wrapped import WrappedNetwork

BUILT_IN: dict[str, Callable[[int], Segmenter]] = {
    "ddrnet23_slim": DDRNetSlim,
    "deeplabv2_resnet101": DeepLabV2,
    **{name: partial(EfficientNetLiteSegmenter, name) for name in SCALES},
}


def build_segmenter(
    network: str,
    class_count: int,
    *,
    head: str = "",
    input_hw: tuple[int, int] | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A network by its name, with the weights that it comes with.

    Args:
        network: a built-in name, `package.module:factory`, or `library:name`.
        class_count: C; a factory is called with it.
        head: path of the classifier layer of a network that is not built in; empty = found by itself.
        input_hw: rows and columns to measure such a network at, for training; None = it only predicts.
        architecture: from a checkpoint, what its library needs to build it again; its weights are not fetched then.

    Raises:
        ConfigError: no network of that name, or it does not do what is asked of one.
        MissingDependency: the module or library is not installed here.
    """
    name = parse_network(network)
    if not name.library:
        if head:
            raise ConfigError(f"model.head = {head!r} is for networks that are not built in; leave it out")
        return BUILT_IN[name.name](class_count)
    built, remembered = _from_factory(name, class_count), architecture
    if isinstance(built, Segmenter):
        return built
    segmenter = WrappedNetwork(built, class_count, name=network, head=head, architecture=remembered)
    if input_hw is not None:
        segmenter.measure(input_hw)
    return segmenter


def network_of(model: ModelConfig, class_count: int, architecture: Mapping[str, Any] | None = None) -> Segmenter:
    """The network of a run's settings, measured at its input size, for training; see `build_segmenter`.

    Raises:
        ConfigError, MissingDependency: as `build_segmenter` says.
    """
    return build_segmenter(
        model.network, class_count, head=model.head, input_hw=model.input_hw, architecture=architecture
    )


def _from_factory(name: NetworkName, class_count: int) -> nn.Module:
    """What `package.module:factory` returns for C classes; modules of the working folder are found, too."""
    module_name, _, path = name.name.partition(":")
    module: Any
    with working_folder():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise MissingDependency(f"{name.text}: {_what_is_missing(module_name, error)}") from error
        except Exception as error:
            what = f"{module_name} cannot be imported{_where(error)}: {_said(error)}"
            raise ConfigError(f"{name.text}: {what}") from error
    factory = module
    for part in path.split("."):
        if not hasattr(factory, part):
            raise ConfigError(f"{name.text}: {module_name} has no {path!r}")
        factory = getattr(factory, part)
    try:
        built = factory(class_count, **name.options)
    except Exception as error:
        raise ConfigError(
            f"{name.text}: {path}({class_count}{''.join(f', {k}={v!r}' for k, v in name.options.items())}) failed"
            f"{_where(error)}: {_said(error)}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f"{name.text}: {path} returned {type(built).__name__}; return a torch.nn.Module")
    return built


def _what_is_missing(module: str, error: ModuleNotFoundError) -> str:
    lacking = error.name or "a module"
    if f"{module}.".startswith(f"{lacking}."):
        return f"no module {lacking!r} here; install its package, or start where {lacking.split('.')[0]} lies"
    return f"{module} needs {lacking}, which is not installed here"


@contextmanager
def working_folder() -> Iterator[None]:
    """Installed commands do not look for modules in the working folder; `python -m` does."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _where(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f" ({Path(trace.tb_frame.f_code.co_filename).name}, line {trace.tb_lineno})"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')[:160]}".removesuffix(": ")
