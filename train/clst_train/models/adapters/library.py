"""What the adapters share: importing their library, and calling it, with one line for whatever it raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from clst_runtime.errors import ClstError, ConfigError, MissingDependency, ModelFileError
from clst_runtime.system.machine import package_version
from clst_runtime.system.optional import require
from clst_train.models.adapters.factory import first_line
from clst_train.models.specification import NetworkName
from clst_train.models.weight_files import Weights

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Mean and standard deviation of the three channels, on the 0–255 scale."""
Returned = TypeVar("Returned")


@dataclass(frozen=True, kw_only=True)
class LibraryWeights:
    """Weights that a network's name brings."""

    weights: Weights
    """Tensors by the network's own names, and its classes where they are known."""
    file: Path | None = None
    """The one file that they are from; None where they are from several, or the library does not say."""
    normalisation: Normalisation | None = None
    """What the images were normalised by that they were trained with, where that is known."""


def import_library(module: str) -> ModuleType:
    """Import a library.

    Raises:
        MissingDependency: it is not installed, or does not fit the PyTorch that is.
    """
    try:
        return require(module)
    except MissingDependency:
        raise
    except Exception as error:  # torchvision raises RuntimeError beside another PyTorch than its own
        raise MissingDependency(
            f"{module} {package_version(module) or ''} does not work with torch {package_version('torch')} "
            f"({first_line(error)}); install the pair that belongs together"
        ) from error


def called(name: NetworkName, what: str, call: Callable[[], Returned]) -> Returned:
    """What the library's call returns.

    Args:
        name: of the network.
        what: is done, for the message: `cannot be built`.
        call: the call.

    Raises:
        ConfigError: it raised anything; the message has its first line.
    """
    try:
        return call()
    except ClstError:
        raise
    except Exception as error:
        raise ConfigError(f"{name.text} {what}: {first_line(error)}") from error


def fetched(name: NetworkName, call: Callable[[], Returned], *, instead: str) -> Returned:
    """What the library's call returns, which may download weights that the user named.

    Raises:
        ModelFileError: it raised anything; the message has its first line, and what to do instead.
    """
    try:
        return call()
    except ClstError:
        raise
    except Exception as error:
        raise ModelFileError(
            f"the weights of {name.text} cannot be read or fetched ({first_line(error)}); {instead}"
        ) from error


def refuse_options(name: NetworkName, refused: Mapping[str, str]) -> None:
    """Raises:
    ConfigError: the name has an option that is not the user's to choose; `refused` has the reasons.
    """
    for option, reason in refused.items():
        if option in name.options:
            raise ConfigError(f"{name.text}: leave out {option}; {reason}")


def only_below(tensors: Mapping[str, Any], prefixes: Iterable[str]) -> dict[str, Any]:
    """The tensors whose names begin with one of these."""
    return {name: value for name, value in tensors.items() if name.startswith(tuple(prefixes))}
