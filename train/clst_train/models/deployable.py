"""What is exported: a function of a camera frame, without anything that only training needs.

Legend: N images, H rows, W columns of the input size, C classes.
"""

from __future__ import annotations

import copy
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter


def normalise(frames: Tensor, by: Normalisation) -> Tensor:
    """RGB frames N,H,W,3 uint8 to normalised N,3,H,W float32, in the network's order of channels."""
    images = frames.float().permute(0, 3, 1, 2)  # in this order: TensorRT moves no uint8
    if by.channels == "bgr":
        images = images.index_select(1, torch.tensor([2, 1, 0], device=images.device))
    offset = torch.tensor(by.mean, device=images.device).view(1, 3, 1, 1)
    return (images - offset) / torch.tensor(by.std, device=images.device).view(1, 3, 1, 1)


def normalise_in_training(frames: Tensor, by: Normalisation) -> Tensor:
    """`normalise` by constants that stay on the device: a step that sends them anew waits for it. Not to be traced."""
    offset, scale = _constants(by, frames.device)
    images = frames.permute(0, 3, 1, 2).float()
    return ((images.flip(1) if by.channels == "bgr" else images) - offset) / scale


@lru_cache(maxsize=16)
def _constants(by: Normalisation, device: torch.device) -> tuple[Tensor, Tensor]:
    offset, scale = (torch.tensor(values, device=device).view(1, 3, 1, 1) for values in (by.mean, by.std))
    return offset, scale


class Deployable(nn.Module):
    """Frame uint8 1,H,W,3 RGB in, class ids uint8 1,H,W out: normalisation, network, upsampling and arg-max inside."""

    def __init__(
        self,
        segmenter: Segmenter,
        input_hw: tuple[int, int],
        *,
        with_confidence: bool = False,
    ) -> None:
        super().__init__()
        self.segmenter = copy.deepcopy(segmenter).eval()
        if hasattr(self.segmenter, "auxiliary_head"):
            del self.segmenter.auxiliary_head
        self.input_hw, self.with_confidence = input_hw, with_confidence
        self.eval()

    def logits(self, frame: Tensor) -> Tensor:
        """Frame uint8 N,H,W,3 to logits N,C,H,W at full size."""
        logits: Tensor = self.segmenter(normalise(frame, self.segmenter.normalisation))
        if logits.shape[-2:] == self.input_hw:
            return logits
        return F.interpolate(logits, size=self.input_hw, mode="bilinear", align_corners=False)

    def forward(self, frame: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """Class ids uint8 N,H,W, and with `with_confidence` the winner's probability × 255 as uint8 N,H,W.

        The class is of the logits as they are, so that it is the same with a confidence and without.
        """
        logits = self.logits(frame)
        classes = logits.argmax(dim=1).float().to(torch.uint8)  # TensorRT casts to uint8 from float only
        if not self.with_confidence:
            return classes
        if self.segmenter.temperature != 1.0:
            logits = logits / self.segmenter.temperature
        return classes, (logits.softmax(dim=1).amax(dim=1) * 255.0).round().to(torch.uint8)
