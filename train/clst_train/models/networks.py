"""Networks by their names: the built-in ones, any factory of a Python module, and those of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import nn

from clst_runtime.errors import ConfigError
from clst_train.config import ModelConfig
from clst_train.models.adapters import factory, huggingface, smp, timm_encoders, torchvision_models
from clst_train.models.adapters.library import library_of
from clst_train.models.built_in.ddrnet import DDRNetSlim
from clst_train.models.built_in.deeplab import DeepLabV2
from clst_train.models.built_in.efficientnet_lite import SCALES, EfficientNetLiteSegmenter
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter
from clst_train.models.specification import NetworkName, parse_network
from clst_train.models.wrapped import WrappedNetwork

BUILT_IN: dict[str, Callable[[int], Segmenter]] = {
    "ddrnet23_slim": DDRNetSlim,
    "deeplabv2_resnet101": DeepLabV2,
    **{name: partial(EfficientNetLiteSegmenter, name) for name in SCALES},
}


def build_segmenter(
    network: str,
    class_count: int,
    *,
    head: str = "",
    input_hw: tuple[int, int] | None = None,
    architecture: Mapping[str, Any] | None = None,
) -> Segmenter:
    """A network by its name; of a factory with the weights that it returns, else with random ones.

    Args:
        network: a built-in name, `package.module:factory`, or `library:name`.
        class_count: C; a factory is called with it.
        head: path of the classifier layer of a network that is not built in; empty = found by itself.
        input_hw: rows and columns to measure such a network at, for training; None = it only predicts.
        architecture: from a checkpoint, what its library needs to build it again; nothing else is read then.

    Raises:
        ConfigError: no network of that name, or it does not do what is asked of one.
        MissingDependency: the module or library is not installed here.
        ModelFileError: a network of Hugging Face's is not on this machine.
    """
    name = parse_network(network)
    if not name.library:
        if head:
            raise ConfigError(f"model.head = {head!r} is for networks that are not built in; leave it out")
        return BUILT_IN[name.name](class_count)
    built, remembered = _of_others(name, class_count, architecture)
    if isinstance(built, Segmenter):
        return built
    segmenter = WrappedNetwork(built, class_count, name=network, head=head, architecture=remembered)
    if input_hw is not None:
        segmenter.measure(input_hw)
    return segmenter


def network_of(model: ModelConfig, class_count: int, architecture: Mapping[str, Any] | None = None) -> Segmenter:
    """The network of a run's settings, measured at its input size, for training; see `build_segmenter`.

    Raises:
        ConfigError, MissingDependency, ModelFileError: as `build_segmenter` says.
    """
    segmenter = build_segmenter(
        model.network, class_count, head=model.head, input_hw=model.input_hw, architecture=architecture
    )
    segmenter.normalisation = Normalisation(model.mean, model.std, model.channels)
    return segmenter


def _of_others(
    name: NetworkName, class_count: int, architecture: Mapping[str, Any] | None
) -> tuple[nn.Module, Mapping[str, Any]]:
    """A network that is not built in, and what to remember of its architecture."""
    match name.library:
        case "hf":
            return huggingface.build(name, class_count, architecture)
        case "smp":
            return smp.build(name, class_count), library_of(smp.MODULE)
        case "torchvision":
            return torchvision_models.build(name, class_count), library_of(torchvision_models.MODULE)
        case "timm":
            return timm_encoders.build(name, class_count), library_of(timm_encoders.MODULE)
        case _:
            return factory.build(name, class_count, architecture or {})
