"""How a network is named: `ddrnet23_slim`, `package.module:factory`, `hf:nvidia/segformer-b0`, `smp:Unet?encoder=…`.

Known without PyTorch, so that a misspelt name is refused in the first second.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from clst_runtime.errors import ConfigError, MissingDependency, did_you_mean
from clst_runtime.system.files.json_values import MOST_LETTERS
from clst_runtime.system.optional import check_installed
from clst_train.config import NETWORKS

ADAPTERS = {
    "hf": "transformers",
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "timm": "timm",
}
"""What stands before the colon for networks of other libraries, with the library; anything else is a Python module."""
NO_NETWORKS = frozenset({*sys.stdlib_module_names, "__main__", "torch"})
"""Packages that have no factories of networks, but functions that harm: a checkpoint names what is called."""
_CONSTANTS = {"true": True, "false": False, "none": None, "null": None}


@dataclass(frozen=True, kw_only=True)
class NetworkName:
    """The parts of a network's name."""

    text: str
    """As it was given."""
    library: str
    """One of `ADAPTERS`, `python` for a factory, or empty for a built-in network."""
    name: str
    """What follows the colon: a factory with its module, or the library's own name."""
    options: dict[str, Any] = field(default_factory=dict)
    """What follows the question mark: keyword arguments."""


def parse_network(text: str) -> NetworkName:
    """Split a network's name; nothing is imported.

    Raises:
        ConfigError: it is no built-in network's, and not of the form `module:factory` or `library:name`; or its
            module has no networks.
    """
    if len(text) > MOST_LETTERS or not text.isprintable():
        raise ConfigError(f"model.network = {text[:60]!r}…: give at most {MOST_LETTERS} printable characters")
    place, _, query = text.partition("?")
    before, colon, after = place.partition(":")
    pairs = [_option(part, text) for part in query.split("&") if part]
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigError(f"model.network = {text!r}: give each argument after the question mark once")
    if not colon:
        if place not in NETWORKS or options:
            raise ConfigError(
                f"no network {text!r}; {did_you_mean(place, NETWORKS)}, or name your own as package.module:factory"
            )
        return NetworkName(text=text, library="", name=place)
    if before in ADAPTERS and after:
        return NetworkName(text=text, library=before, name=after, options=options)
    if re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*", place) is None:
        known = "".join(f", or {library}:NAME" for library in ADAPTERS)
        raise ConfigError(f"model.network = {text!r}: give package.module:factory{known}")
    package = place.partition(":")[0].partition(".")[0]
    if package == "__main__":
        raise ConfigError(
            f"model.network = {text!r}: other programs cannot import the program that is running; put the factory "
            "into a file of its own, and name that"
        )
    if package in NO_NETWORKS:
        kind = "PyTorch's own" if package == "torch" else "of Python's standard library"
        raise ConfigError(f"model.network = {text!r}: {package} is {kind}, and no network; name your module otherwise")
    return NetworkName(text=text, library="python", name=place, options=options)


def check_library(name: NetworkName) -> None:
    """Look for the library or module that a network is from, without importing it.

    Raises:
        MissingDependency: it is not installed, and does not lie in the working folder.
    """
    if name.library in ADAPTERS:
        check_installed(ADAPTERS[name.library])
    elif name.library:
        top = re.split(r"[.:]", name.name)[0]
        with working_folder():
            found = importlib.util.find_spec(top)
        if found is None:
            raise MissingDependency(
                f"{name.text}: no module {top!r} here; install its package, or start where {top} lies"
            )


@contextmanager
def working_folder() -> Iterator[None]:
    """Installed commands do not look for modules in the working folder, but `python -m` does; inside, they do."""
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _option(part: str, text: str) -> tuple[str, Any]:
    """`width=32` as a keyword and its value: a number, true, false, none, or text."""
    key, equals, value = part.partition("=")
    if not equals or not key.isidentifier():
        raise ConfigError(f"model.network = {text!r}: {part!r} after the question mark; give key=value, joined by &")
    if value.lower() in _CONSTANTS:
        return key, _CONSTANTS[value.lower()]
    try:
        found = ast.literal_eval(value)
    except (ValueError, SyntaxError):
        return key, value
    return key, found if isinstance(found, (int, float, str, tuple, list)) else value
