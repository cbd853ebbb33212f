"""Weights from a file that another project made, by the names it gave them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from clst_runtime.errors import ModelFileError
from clst_train.models.segmenter import Segmenter


def load_imagenet_backbone(segmenter: Segmenter, path: Path) -> str:
    """Load every weight whose name and shape fit, e.g. torchvision's ResNet-101 state dict; returns a message.

    Classifiers (`fc.`, `linear.`) are left out; prefixes `module.` and `model.` are taken off.

    Raises:
        ModelFileError: unreadable, or fewer than half of the network's weights are in it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
        raise ModelFileError(f"{path} is no readable state dict ({str(error).splitlines()[0][:120]})") from error
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]
    if not isinstance(content, dict):
        raise ModelFileError(f"{path} holds a {type(content).__name__}, expected a state dict of named tensors")
    given = {name.removeprefix("module.").removeprefix("model."): value for name, value in content.items()}
    own = segmenter.state_dict()
    fitting = {
        name: given[name]
        for name, value in own.items()
        if isinstance(given.get(name), Tensor) and given[name].shape == value.shape
    }
    if 2 * len(fitting) < len(own):
        lacking = next(name for name in own if name not in fitting)
        raise ModelFileError(f"{path}: {len(fitting)} of {len(own)} weights fit this network; {lacking!r} does not")
    segmenter.load_state_dict(fitting, strict=False)
    return f"{path}: {len(fitting)} of {len(own)} weights loaded"
