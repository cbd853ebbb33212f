"""What the adapters share: importing their library, and calling it, with one line for whatever it raises."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from clst_runtime.errors import ClstError, ConfigError, MissingDependency, ModelFileError, did_you_mean
from clst_runtime.system.machine import package_version
from clst_runtime.system.optional import require
from clst_train.models.failures import first_line
from clst_train.models.normalisation import Normalisation
from clst_train.models.specification import NetworkName
from clst_train.models.weights.files import Weights

OFFLINE = "HF_HUB_OFFLINE"
"""Environment variable of Hugging Face's hub, where timm and segmentation_models_pytorch have their weights: nothing is
downloaded unless it is 0. Without a network they would go on trying for minutes."""
ALLOW_DOWNLOAD = f"set {OFFLINE}=0 once to let the library download them, or give --pretrained none or a file"
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
    os.environ.setdefault(OFFLINE, "1")
    try:
        return require(module)
    except MissingDependency:
        raise
    except Exception as error:  # torchvision raises RuntimeError beside another PyTorch than its own
        raise MissingDependency(
            f"{module} {package_version(module) or ''} does not work with torch {package_version('torch')} "
            f"({first_line(error)}); install the pair that belongs together"
        ) from error


def library_of(module: str) -> dict[str, str]:
    """What a checkpoint keeps of a library: its name and its version here."""
    return {"package": module, "version": package_version(module) or ""}


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
    """What the library's call returns, which reads the weights that the name brings.

    Raises:
        ModelFileError: they are not there; the message says what to do instead.
        ConfigError: it raised anything else; the message has its first line.
    """
    try:
        return call()
    except ClstError:
        raise
    except OSError as error:
        raise ModelFileError(
            f"the weights of {name.text} are not on this machine, or damaged ({type(error).__name__}); {instead}"
        ) from error
    except Exception as error:
        raise ConfigError(f"the weights of {name.text} cannot be read: {first_line(error)}") from error


def check_options(name: NetworkName, call: Callable[..., Any], refused: Mapping[str, str], *own: str) -> None:
    """Refuse arguments that the library would ignore, or that are not the user's to choose.

    Args:
        name: of the network, with the arguments.
        call: what is called with them; arguments that it only takes as `**kwargs` are refused.
        refused: arguments that it has, and why they are left out.
        own: what the name can have besides.

    Raises:
        ConfigError: the name has another argument.
    """
    kinds = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    parameters = inspect.signature(call).parameters
    known = [*own, *(each for each, value in parameters.items() if value.kind in kinds and each not in refused)]
    for option in name.options:
        if option in refused:
            raise ConfigError(f"{name.text}: leave {option} out: {refused[option]}")
        if option not in known:
            raise ConfigError(f"{name.text}: it has no argument {option!r}; {did_you_mean(option, known)}")
