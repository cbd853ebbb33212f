"""Networks of one's own: `package.module:factory`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from clst_runtime.errors import ConfigError, MissingDependency
from clst_train.models.specification import NetworkName


def build(name: NetworkName, class_count: int) -> nn.Module:
    """What `package.module:factory` returns for C classes; modules of the working folder are found, too.

    Raises:
        MissingDependency: the module, or one that it needs, is not here.
        ConfigError: the module or the factory raises anything, or returns no network.
    """
    module_name, _, path = name.name.partition(":")
    module: Any
    with working_folder():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise MissingDependency(f"{name.text}: {_what_is_missing(module_name, error)}") from error
        except Exception as error:
            what = f"{module_name} cannot be imported{_where(error)}: {first_line(error)}"
            raise ConfigError(f"{name.text}: {what}") from error
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{name.text}: {module_name} has no {path!r}")
        found = getattr(found, part)
    try:
        built = found(class_count, **name.options)
    except Exception as error:
        raise ConfigError(
            f"{name.text}: {path}({class_count}{''.join(f', {k}={v!r}' for k, v in name.options.items())}) failed"
            f"{_where(error)}: {first_line(error)}"
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


def first_line(error: BaseException) -> str:
    """Kind and first line of an error."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return f"{type(error).__name__}: {line[:160]}".removesuffix(": ")
