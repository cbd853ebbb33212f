"""How a network is named: `ddrnet23_slim`, `package.module:factory`, `hf:nvidia/segformer-b0`, `smp:Unet?encoder=…`.

Known without PyTorch, so that a misspelt name is refused in the first second.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field
from typing import Any

from clst_runtime.errors import ConfigError, did_you_mean
from clst_runtime.system.optional import check_installed
from clst_train.config import NETWORKS

ADAPTERS = {
    "hf": "transformers",
    "smp": "segmentation_models_pytorch",
    "torchvision": "torchvision",
    "timm": "timm",
}
"""What stands before the colon for networks of other libraries, with the library; anything else is a Python module."""
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
        ConfigError: it is no built-in network's, and not of the form `module:factory` or `library:name`.
    """
    place, _, query = text.partition("?")
    before, colon, after = place.partition(":")
    options = dict(_option(part, text) for part in query.split("&") if part)
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
    return NetworkName(text=text, library="python", name=place, options=options)


def check_library(name: NetworkName) -> None:
    """Look for the library that a network is from, without importing it.

    Raises:
        MissingDependency: it is not installed.
    """
    if name.library in ADAPTERS:
        check_installed(ADAPTERS[name.library])


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
