"""Networks of one's own: `package.module:factory`."""

from __future__ import annotations

import copy
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from functools import cache, partial
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clst_runtime.errors import ConfigError, MissingDependency
from clst_train.models.failures import FAILURES, first_line, reason
from clst_train.models.specification import NO_NETWORKS, NetworkName, working_folder

_PYTORCH = str(Path(torch.__file__).parent)


def build(name: NetworkName, class_count: int, origin: Mapping[str, Any]) -> tuple[nn.Module, dict[str, str]]:
    """What `package.module:factory` returns for C classes, and where its module comes from.

    Modules of the working folder are found, too.

    Args:
        name: of the network, with the factory's options.
        class_count: C.
        origin: where the module of a checkpoint came from; empty = not known.

    Raises:
        MissingDependency: the module, or one that it needs, is not here.
        ConfigError: the module or the factory raises anything, or returns no network or one that cannot be copied.
    """
    module_name, _, path = name.name.partition(":")
    with working_folder(), _kept_apart():
        try:
            module = importlib.import_module(module_name)
        except ModuleNotFoundError as error:
            raise MissingDependency(f"{name.text}: {_what_is_missing(module_name, error, origin)}") from error
        except (Exception, SystemExit) as error:
            what = f"{module_name} cannot be imported{_where(error)}: {first_line(error)}"
            raise ConfigError(f"{name.text}: {what}") from error
    factory = _factory_in(module, path, name.text)
    try:
        with _kept_apart():
            built = factory(class_count, **name.options)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"{name.text}: {path}({class_count}{''.join(f', {k}={v!r}' for k, v in name.options.items())}) failed"
            f"{_where(error)}: {first_line(error)}"
        ) from error
    if not isinstance(built, nn.Module):
        raise ConfigError(f"{name.text}: {path} returned {type(built).__name__}; return a torch.nn.Module")
    return _own_copy(built, name.text), _origin_of(module_name)


def _own_copy(network: nn.Module, name: str) -> nn.Module:
    """Its copy, since a factory may return one module each time: the run would go on with the weights of its trial.

    Raises:
        ConfigError: it cannot be copied.
    """
    try:
        return copy.deepcopy(network)
    except FAILURES as error:
        raise ConfigError(
            f"{name} cannot be copied by copy.deepcopy, as validation, teachers and export do: {reason(error)}"
        ) from error


@contextmanager
def _kept_apart() -> Iterator[None]:
    """What is printed inside goes to standard error, and PyTorch's settings are afterwards as they were before."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    with redirect_stdout(sys.stderr), torch.set_grad_enabled(torch.is_grad_enabled()):
        try:
            yield
        finally:
            torch.set_default_dtype(dtype)
            torch.set_num_threads(threads)


def _factory_in(module: Any, path: str, where: str) -> Callable[..., Any]:
    """The function or class at a path of attributes.

    Raises:
        ConfigError: there is none, or one of a package that has no networks, which a checkpoint must not have called.
    """
    found = module
    for part in path.split("."):
        if not hasattr(found, part):
            raise ConfigError(f"{where}: {module.__name__} has no {path!r}")
        found = getattr(found, part)
    inner = found
    while isinstance(inner, partial):
        inner = inner.func
    home = getattr(inner, "__module__", None)
    if isinstance(found, nn.Module) or not callable(found) or not isinstance(home, str):
        raise ConfigError(
            f"{where}: {path} is {type(found).__name__}; name a function or class that makes a network for a number "
            "of classes"
        )
    if home.partition(".")[0] in NO_NETWORKS:
        raise ConfigError(f"{where}: {path} is {home}.{getattr(inner, '__name__', path)}, which makes no network")
    return found  # type: ignore[no-any-return]


def _origin_of(module_name: str) -> dict[str, str]:
    """Its installed package with the version, or the working folder; empty where neither is known."""
    top = module_name.partition(".")[0]
    if (package := _package_of(top)) is not None:
        return {"package": package, "version": version(package)}
    spec = sys.modules[top].__spec__
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec is not None else []
    here = Path.cwd().resolve()
    return {"folder": "working folder"} if here in [Path(place).resolve().parent for place in places if place] else {}


@cache
def _package_of(top: str) -> str | None:
    return next(iter(packages_distributions().get(top, ())), None)


def _what_is_missing(module: str, error: ModuleNotFoundError, origin: Mapping[str, Any]) -> str:
    lacking = error.name or "a module"
    if not f"{module}.".startswith(f"{lacking}."):
        return f"{module} needs {lacking}, which is not installed here"
    top = lacking.partition(".")[0]
    if "package" in origin:
        hint = f"it came from the package {origin['package']} {origin.get('version', '')}".rstrip() + "; install that"
    elif "folder" in origin:
        hint = f"{top} lay in the folder that training was started in; start there, or install it as a package"
    else:
        hint = f"install its package, or start where {top} lies"
    return f"no module {lacking!r} here; {hint}"


def _where(error: BaseException) -> str:
    """The innermost line of a traceback that is neither PyTorch's nor this module's."""
    frames = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
    own = [each for each in frames if not each[0].startswith((_PYTORCH, __file__))]
    return f" ({Path(own[-1][0]).name}, line {own[-1][1]})" if own else ""
