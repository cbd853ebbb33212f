"""The networks by their names."""

from __future__ import annotations

from clst_runtime.errors import ConfigError, did_you_mean
from clst_train.config import NETWORKS
from clst_train.models.ddrnet import DDRNetSlim
from clst_train.models.deeplab import DeepLabV2
from clst_train.models.efficientnet_lite import EfficientNetLiteSegmenter
from clst_train.models.segmenter import Segmenter


def build_segmenter(network: str, class_count: int) -> Segmenter:
    """A freshly initialised network.

    Raises:
        ConfigError: no network of that name.
    """
    match network:
        case "ddrnet23_slim":
            return DDRNetSlim(class_count)
        case "deeplabv2_resnet101":
            return DeepLabV2(class_count)
        case "efficientnet_lite0" | "efficientnet_lite1" | "efficientnet_lite2":
            return EfficientNetLiteSegmenter(network, class_count)
        case _:
            raise ConfigError(f"no network {network!r}; {did_you_mean(network, NETWORKS)}")
