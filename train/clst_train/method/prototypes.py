"""Class-wise mean projections and the global source prototypes.

Legend: N images, C classes, D projection channels, h rows and w columns of the feature map.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import total

MINIMUM_PIXELS = 4
"""Feature pixels that a class needs in an image to have a mean."""
MOMENTUM = 0.99
"""Of the prototypes, per step."""


@dataclass(frozen=True, kw_only=True)
class ClassMeans:
    """Mean projection of each class in each image."""

    means: Tensor
    """N,C,D unit vectors; undefined where `present` is False."""
    present: Tensor
    """N,C bool: the class has at least the minimum number of pixels in the image."""


def labels_at_stride(labels: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """Labels N,H,W at the feature map's size N,h,w, by the nearest pixel."""
    return F.interpolate(labels[:, None].float(), size=size_hw, mode="nearest-exact")[:, 0].long()


def at_stride(mask: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """A mask N,H,W bool at the feature map's size N,h,w, by the nearest pixel, as labels are."""
    return F.interpolate(mask[:, None].float(), size=size_hw, mode="nearest-exact")[:, 0] > 0


def class_means(
    projections: Tensor, labels: Tensor, class_count: int, minimum_pixels: int = MINIMUM_PIXELS
) -> ClassMeans:
    """Mean over the pixels that carry label c, one matrix product for the batch (equation 4).

    Args:
        projections: N,D,h,w unit vectors.
        labels: N,h,w class ids; `IGNORE_ID` counts for no class.
        class_count: C.
        minimum_pixels: a class with fewer pixels in an image is not present.
    """
    known = (labels != IGNORE_ID) & (labels < class_count)
    one_hot = F.one_hot(labels.clamp(0, class_count - 1), class_count).to(projections.dtype)  # N,h,w,C
    one_hot = (one_hot * known[..., None].to(projections.dtype)).flatten(1, 2)  # N,P,C
    sums = torch.einsum("npc,ndp->ncd", one_hot, projections.flatten(2))
    counts = one_hot.sum(dim=1)  # N,C
    means = sums / counts.clamp_min(1.0)[..., None]
    return ClassMeans(means=F.normalize(means, dim=2, eps=1e-6), present=counts >= minimum_pixels)


class Prototypes:
    """The global source prototypes q_c: moving averages of the source images' class means (equation 5)."""

    def __init__(self, class_count: int, width: int, device: torch.device, *, momentum: float = MOMENTUM) -> None:
        self.momentum = momentum
        self.sums = torch.zeros(class_count, width, device=device)  # C,D
        self.weights = torch.zeros(class_count, device=device)  # C
        self._vectors = self.sums

    @property
    def seen(self) -> Tensor:
        """C bool: the class has occurred in a source image."""
        return self.weights > 0

    def vectors(self) -> Tensor:
        """C,D unit vectors; zero for classes never seen."""
        return self._vectors

    @torch.no_grad()
    def update(self, batch: ClassMeans) -> None:
        """Take in the class means of a batch of source images, on all ranks; absent classes keep their prototype."""
        present = batch.present.to(self.sums.dtype)  # N,C
        counts = total(present.sum(dim=0))  # C
        mean = total(torch.einsum("nc,ncd->cd", present, batch.means.float())) / counts.clamp_min(1.0)[:, None]
        keep = torch.where(counts > 0, self.momentum, 1.0)
        # Sum and weight decay together, so that sums / weights is free of a start-up bias.
        self.sums = keep[:, None] * self.sums + (1.0 - keep)[:, None] * mean
        self.weights = keep * self.weights + (1.0 - keep)
        self._normalise()

    def begin_anew(self) -> None:
        """Forget what was seen."""
        self.load_state_dict({"sums": torch.zeros_like(self.sums), "weights": torch.zeros_like(self.weights)})

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint needs to go on exactly."""
        return {"sums": self.sums, "weights": self.weights}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint's state."""
        self.sums = state["sums"].to(self.sums)
        self.weights = state["weights"].to(self.weights)
        self._normalise()

    def _normalise(self) -> None:
        """Once a step, since they are read several times."""
        self._vectors = F.normalize(self.sums, dim=1, eps=1e-12)
