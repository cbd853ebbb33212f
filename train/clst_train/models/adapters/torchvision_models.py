"""Networks of torchvision.models.segmentation: `torchvision:lraspp_mobilenet_v3_large?weights=DEFAULT`."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from clst_runtime.errors import ConfigError, ModelFileError, did_you_mean
from clst_train.models.adapters.library import LibraryWeights, called, check_options, fetched, import_library
from clst_train.models.specification import NetworkName
from clst_train.models.weights.files import Weights

MODULE = "torchvision"
NAMED = ("weights", "weights_backbone")
"""Arguments that name weights: of the whole network, or of its encoder."""
_REFUSED = {"num_classes": "their number is the class list's", "progress": "nothing is downloaded"}


def build(name: NetworkName, class_count: int) -> nn.Module:
    """The network with random weights.

    Args:
        name: one of torchvision's, with `weights` or `weights_backbone` (see `read`) and other arguments.
        class_count: C.

    Raises:
        ConfigError: no such network or argument. MissingDependency: torchvision is not installed.
    """
    models = _models(name)
    check_options(name, models.get_model_builder(name.name), _REFUSED)
    options = {key: value for key, value in name.options.items() if key not in NAMED}
    return called(  # type: ignore[no-any-return]
        name,
        "cannot be built",
        lambda: models.get_model(name.name, weights=None, weights_backbone=None, num_classes=class_count, **options),
    )


def read(name: NetworkName) -> LibraryWeights | None:
    """The weights that `weights` or else `weights_backbone` names, with their classes; None where none are named.

    Raises:
        ConfigError: there are none of that name.
        ModelFileError: their file is not in PyTorch's cache on this machine, or damaged.
    """
    models = _models(name)
    whole, backbone = (name.options.get(each) for each in NAMED)
    if whole is None and backbone is None:
        return None
    model = name.name if whole is not None else name.name.partition("_")[2]
    entry = _entry(name, models, model, str(whole or backbone))
    file = Path(torch.hub.get_dir()) / "checkpoints" / Path(entry.url).name
    command = f'import torchvision; torchvision.models.get_model("{model}", weights="{entry.name}")'
    fetch = f"fetch it once by: python -c '{command}'"
    if not file.is_file():
        raise ModelFileError(f"{name.text}: there is no {file}; {fetch}")
    tensors = fetched(name, lambda: torch.load(file, map_location="cpu", weights_only=True), instead=fetch)
    if whole is None:
        tensors = {f"backbone.{key.removeprefix('features.')}": value for key, value in tensors.items()}
    classes = tuple(entry.meta["categories"]) if whole is not None and "categories" in entry.meta else None
    return LibraryWeights(weights=Weights(path=file, tensors=tensors, classes=classes), file=file)


def _entry(name: NetworkName, models: Any, model: str, weights: str) -> Any:
    """torchvision's description of weights: file, classes."""
    known = called(name, "has no such encoder", lambda: models.get_model_weights(model))
    if weights != "DEFAULT" and weights not in known.__members__:
        names = ", ".join(known.__members__) or "none"
        raise ConfigError(f"{name.text}: no weights {weights!r} of {model}; it has {names}")
    return known[weights] if weights != "DEFAULT" else known.DEFAULT


def _models(name: NetworkName) -> Any:
    library: ModuleType = import_library(MODULE)
    known = library.models.list_models(module=library.models.segmentation)
    if name.name not in known:
        raise ConfigError(f"{name.text}: no segmentation network {name.name!r}; {did_you_mean(name.name, known)}")
    return library.models
