"""Weights from a file that another project made, by the names it gave them."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor, nn

from clst_runtime.errors import ModelFileError


def load_imagenet_backbone(segmenter: nn.Module, path: Path, *, least_share: float = 0.5) -> str:
    """Load every weight whose name and shape fit, e.g. torchvision's ResNet-101 state dict; returns a message.

    Classifiers (`fc.`, `linear.`) are left out; prefixes `module.` and `model.` are taken off.

    Raises:
        ModelFileError: unreadable, or fewer than `least_share` of the network's weights are in it.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, LookupError, pickle.UnpicklingError) as error:
        reason = next(iter(str(error).splitlines()), "it ends too early")
        raise ModelFileError(f"{path} is no readable state dict ({reason[:120]})") from error
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
    if len(fitting) < least_share * len(own):
        lacking = next(name for name in own if name not in fitting)
        raise ModelFileError(f"{path}: {len(fitting)} of {len(own)} weights fit this network; {lacking!r} does not")
    segmenter.load_state_dict(fitting, strict=False)
    return f"{path}: {len(fitting)} of {len(own)} weights loaded"
