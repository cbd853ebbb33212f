"""Networks of segmentation_models_pytorch: `smp:Unet?encoder=resnet34&weights=imagenet`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from clst_runtime.errors import ConfigError, did_you_mean
from clst_train.models.adapters.library import (
    ALLOW_DOWNLOAD,
    LibraryWeights,
    called,
    check_options,
    fetched,
    import_library,
)
from clst_train.models.specification import NetworkName
from clst_train.models.weights.files import Weights

MODULE = "segmentation_models_pytorch"
_REFUSED = {
    "classes": "their number is the class list's",
    "activation": "training and export need logits",
    "in_channels": "images have 3",
    "aux_params": "it adds labels of whole images",
    "encoder_name": "name it as encoder=…",
    "encoder_weights": "name them as weights=…",
}


def build(name: NetworkName, class_count: int) -> nn.Module:
    """The network with random weights.

    Args:
        name: a class of the library, with `encoder`, `weights` (see `read`) and any other of its arguments.
        class_count: C.

    Raises:
        ConfigError: no such class, encoder or argument. MissingDependency: the library is not installed.
    """
    check_options(name, _kind(name), _REFUSED, "encoder", "weights")
    return called(name, "cannot be built", lambda: _build(name, class_count, weights=None))


def read(name: NetworkName) -> LibraryWeights | None:
    """The encoder's weights that `weights` names; None where it names none.

    Raises:
        ModelFileError: they are not in a cache of this machine. ConfigError: there are none of that name.
    """
    weights = name.options.get("weights")
    if weights is None:
        return None
    network = fetched(name, lambda: _build(name, 1, weights=weights), instead=ALLOW_DOWNLOAD)
    tensors = {key: value for key, value in network.state_dict().items() if key.startswith("encoder.")}
    return LibraryWeights(weights=Weights(path=Path(name.text), tensors=tensors, classes=None))


def _build(name: NetworkName, class_count: int, *, weights: Any) -> nn.Module:
    options = {("encoder_name" if key == "encoder" else key): value for key, value in name.options.items()}
    options.pop("weights", None)
    return _kind(name)(**options, encoder_weights=weights, classes=class_count)


def _kind(name: NetworkName) -> Callable[..., nn.Module]:
    library = import_library(MODULE)
    known = [each for each, kind in vars(library).items() if inspect.isclass(kind) and issubclass(kind, nn.Module)]
    if name.name not in known:
        raise ConfigError(f"{name.text}: no network {name.name!r} in {MODULE}; {did_you_mean(name.name, known)}")
    return getattr(library, name.name)  # type: ignore[no-any-return]
