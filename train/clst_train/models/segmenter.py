"""What every segmentation network here can do: features F(x), logits C(f), and nothing of training in the export.

N batch, C class, D feature channel, H row and W column of the image, h row and w column at the output stride.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

from torch import Generator, Tensor, nn
from typing_extensions import Self

from clst_runtime.errors import ConfigError, did_you_mean

SEGMENTERS = ("ddrnet23_slim", "deeplabv2_resnet101")

MAX_CLASS_COUNT = 255  # Ids are uint8 and 255 means "ignore".


@dataclass(frozen=True)
class TrainingOutputs:
    """What one training pass gives; all at the output stride."""

    features: Tensor
    """F(x): N,D,h,w."""
    logits: Tensor
    """C(F(x)): N,C,h,w."""
    auxiliary: Tensor | None
    """Logits of the auxiliary head, N,C,h,w; None for a network without one."""


@dataclass(frozen=True, kw_only=True)
class PublicNames:
    """How the tensors of a publicly trained weight file relate to a network's own."""

    prefix: str
    """What stands before a public name in our state, e.g. `backbone.`."""
    heads: tuple[str, ...]
    """Public prefixes that are never loaded: their classes are not ours."""
    optional: tuple[str, ...] = ()
    """Public prefixes that some published files lack; they keep their fresh initialisation."""


class Segmenter(nn.Module, ABC):
    """A segmentation network C(F(x)).

    `x` is a normalised float image N,3,H,W (see `deployable.normalise`). A subclass that has an auxiliary head
    for training keeps it in `auxiliary_head`; its parameters begin with `auxiliary_head.` and are not exported.
    """

    feature_channels: ClassVar[int]
    """D, the channels of F(x)."""
    output_stride: ClassVar[int]
    """Pixels of the image per cell of F(x); h = ceil(H / stride), w = ceil(W / stride)."""
    public_names: ClassVar[PublicNames]
    """How `weights.load_imagenet_backbone` finds this network's tensors in a public file."""

    def __init__(self, class_count: int) -> None:
        super().__init__()
        if not 1 <= class_count <= MAX_CLASS_COUNT:
            raise ConfigError(f"class count {class_count} is not in 1…{MAX_CLASS_COUNT}; give the class list's length")
        self.class_count = class_count
        self.auxiliary_head: nn.Module | None = None

    @abstractmethod
    def features(self, x: Tensor) -> Tensor:
        """F: N,3,H,W → N,D,h,w."""

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """C: N,D,h,w → N,C,h,w."""

    @abstractmethod
    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Draw all weights anew, from `generator` or from PyTorch's global one."""

    def forward(self, x: Tensor) -> Tensor:
        """C(F(x)): N,3,H,W → N,C,h,w."""
        return self.logits(self.features(x))

    def training_outputs(self, x: Tensor) -> TrainingOutputs:
        """Features, logits and, where there is such a head, auxiliary logits of N,3,H,W in one pass."""
        features = self.features(x)
        return TrainingOutputs(features=features, logits=self.logits(features), auxiliary=None)

    def for_deployment(self) -> Self:
        """A copy in evaluation mode without the auxiliary head; `self` stays as it is."""
        head, self.auxiliary_head = self.auxiliary_head, None
        try:
            deployed = copy.deepcopy(self)
        finally:
            self.auxiliary_head = head
        return deployed.eval().requires_grad_(False)


def build_segmenter(name: str, class_count: int, *, generator: Generator | None = None) -> Segmenter:
    """A freshly initialised network, on the CPU, in training mode.

    Args:
        name: one of `SEGMENTERS`.
        class_count: C, 1 … 255.
        generator: decides the weights; without it they come from PyTorch's global generator.

    Raises:
        ConfigError: the name is unknown, or the class count is out of range.
    """
    segmenter = _construct(name, class_count)
    segmenter.reset_parameters(generator)
    return segmenter


def _construct(name: str, class_count: int) -> Segmenter:
    """The network `name`; each network's module is imported only when it is asked for (they import this one)."""
    match name:
        case "ddrnet23_slim":
            from clst_train.models.ddrnet import DDRNet23Slim

            return DDRNet23Slim(class_count)
        case "deeplabv2_resnet101":
            from clst_train.models.deeplab import DeepLabV2ResNet101

            return DeepLabV2ResNet101(class_count)
        case _:
            raise ConfigError(f"network {name!r} is unknown; {did_you_mean(name, SEGMENTERS)}")
