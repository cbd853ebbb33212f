"""Encoders of timm with the light decoder of EfficientNet-Lite: `timm:mobilenetv3_large_100?pretrained=true`.

Legend: N images, H rows, W columns of the input; C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor, nn

from clst_runtime.errors import ConfigError
from clst_train.models.adapters.library import (
    ALLOW_DOWNLOAD,
    LibraryWeights,
    called,
    fetched,
    import_library,
)
from clst_train.models.built_in.efficientnet_lite import DECODER, Decoder
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import initialise
from clst_train.models.specification import NetworkName
from clst_train.models.weights.files import Weights

MODULE = "timm"
STRIDES = (4, 8, 16, 32)
_REFUSED = {
    "features_only": "it always is",
    "out_indices": "the strides 4 to 32 are taken",
    "in_chans": "it is 3",
    "checkpoint_path": "give a file by --pretrained",
}


class EncoderWithDecoder(nn.Module):
    """An encoder's maps at strides 4 to 32, the decoder, and a 1×1 classifier."""

    def __init__(self, encoder: nn.Module, class_count: int) -> None:
        """
        Args:
            encoder: as timm makes them with `features_only`.
            class_count: C.

        Raises:
            ConfigError: it lacks a map of one of these strides.
        """
        super().__init__()
        information: Any = encoder.feature_info
        strides, channels = information.reduction(), information.channels()
        if any(stride not in strides for stride in STRIDES):
            raise ConfigError(f"its maps have strides {', '.join(map(str, strides))}; 4, 8, 16 and 32 are needed")
        self.taken = tuple(len(strides) - 1 - strides[::-1].index(stride) for stride in STRIDES)
        self.decoder = Decoder([channels[index] for index in self.taken])
        self.classifier = nn.Conv2d(DECODER, class_count, 1)
        initialise(self)
        self.encoder = encoder  # afterwards: it keeps its own initialisation
        self.innermost = str(getattr(encoder, "output_fmt", "")).endswith("NHWC")

    def forward(self, images: Tensor) -> Tensor:
        """Images N,3,H,W to logits N,C,H/8,W/8."""
        maps = self.encoder(images)
        taken = [maps[index].permute(0, 3, 1, 2) if self.innermost else maps[index] for index in self.taken]
        return self.classifier(self.decoder(taken))  # type: ignore[no-any-return]


def build(name: NetworkName, class_count: int) -> nn.Module:
    """The encoder with random weights, and the decoder.

    Args:
        name: one of timm's encoders, with `pretrained` (see `read`) and other arguments.
        class_count: C.

    Raises:
        ConfigError: no such encoder or argument, or it has other strides. MissingDependency: timm is not installed.
    """
    refused = next((option for option in _REFUSED if option in name.options), None)
    if refused is not None:
        raise ConfigError(f"{name.text}: leave {refused} out: {_REFUSED[refused]}")
    encoder = called(name, "cannot be built", lambda: _encoder(name, pretrained=False))
    try:
        return EncoderWithDecoder(encoder, class_count)
    except ConfigError as error:
        raise ConfigError(f"{name.text} cannot be used: {error.message}") from error


def read(name: NetworkName) -> LibraryWeights | None:
    """The encoder's weights, with `pretrained=true` in the name; None without.

    Raises:
        ModelFileError: they are not in a cache of this machine.
    """
    if not name.options.get("pretrained"):
        return None
    encoder = fetched(name, lambda: _encoder(name, pretrained=True), instead=ALLOW_DOWNLOAD)
    tensors = {f"encoder.{key}": value for key, value in encoder.state_dict().items()}
    mean, std = (tuple(255 * each for each in encoder.pretrained_cfg[key]) for key in ("mean", "std"))
    weights = Weights(path=Path(name.text), tensors=tensors, classes=None)
    return LibraryWeights(weights=weights, normalisation=Normalisation(mean, std))


def _encoder(name: NetworkName, *, pretrained: bool) -> Any:
    options = {key: value for key, value in name.options.items() if key != "pretrained"}
    return import_library(MODULE).create_model(name.name, pretrained=pretrained, features_only=True, **options)
