"""What the student sees: a crop of a target image, its pseudo-labels through the same geometry, pasted source pixels.

Legend: B images, C classes, K,L rows and columns of a crop, h,w at output stride.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import total
from clst_train.compute.pinning import to_device
from clst_train.data.augment import Geometry
from clst_train.method.interpolation import taps

LEAST_PROBABILITY = 1e-4
"""Below it a stored probability is quantisation or a class that was not listed: its logarithm means nothing."""
WHOLE_VIEWS = 3
"""Stream of chance that the views of whole images come from."""
RAREST = 0.01
"""Share below which a rarer class weighs no more: a few stray pixels shall not outweigh the image."""


@dataclass(frozen=True, kw_only=True)
class WholeView:
    """How whole images are shown to the network for the ensemble in one turn."""

    zoom: float = 1.0
    """Rows and columns of what is shown against the image's."""
    mirrored: bool = False
    """Whether it is shown mirrored left to right."""

    def seen(self, images: Tensor, stride: int) -> Tensor:
        """Images B,3,H,W as they are shown; enlarged to multiples of the network's output `stride`."""
        shown = images.flip(-1) if self.mirrored else images
        if self.zoom == 1:
            return shown
        size_hw = [stride * round(size * self.zoom / stride) for size in images.shape[-2:]]
        return F.interpolate(shown, size=size_hw, mode="bilinear", align_corners=False)

    def back(self, maps: Tensor, size_hw: tuple[int, int]) -> Tensor:
        """Maps B,C,h,w of what was shown as maps of the images, for `size_hw` h,w."""
        if self.zoom != 1:
            maps = F.interpolate(maps, size=size_hw, mode="bilinear", align_corners=False)
        return maps.flip(-1) if self.mirrored else maps


PLAIN = WholeView()
"""As they are."""


def whole_view(iteration: int, largest_zoom: float, *, mirror: bool) -> WholeView:
    """The view of one iteration, by chance, but the same whenever and by whichever rank it is asked for."""
    rng = np.random.default_rng([WHOLE_VIEWS, iteration])
    zoom, mirrored = float(rng.uniform(1, largest_zoom)), bool(rng.random() < 0.5)
    return WholeView(zoom=zoom if largest_zoom > 1 else 1.0, mirrored=mirror and mirrored)


@dataclass(frozen=True, kw_only=True)
class StudentView:
    """Target crops, perhaps with classes of source images pasted into them (ClassMix), perhaps masked."""

    images: Tensor
    """B,3,K,L normalised; what is hidden has the mean colour of its crop."""
    own: Tensor
    """B,K,L bool: pixels of the target image itself."""
    visible: Tensor
    """B,K,L bool: those of them that neither the ignore mask covers nor a letterbox's padding is."""
    pasted_labels: Tensor
    """B,K,L: source labels of the pasted pixels, `IGNORE_ID` elsewhere."""
    hidden: Tensor | None = None
    """B,K,L bool: own pixels that the network does not see; they keep their labels. None = it sees all."""

    @property
    def shown(self) -> Tensor:
        """B,K,L bool: pixels where the network sees the target itself."""
        return self.visible if self.hidden is None else self.visible & ~self.hidden

    def labels(self, pseudo_labels: Tensor) -> Tensor:
        """B,K,L: pseudo-labels B,K,L where the target is visible, source labels where pasted, else `IGNORE_ID`."""
        return torch.where(self.visible, pseudo_labels, self.pasted_labels)


def seen_through(maps: Tensor, views: tuple[Geometry, ...], size_hw: tuple[int, int]) -> Tensor:
    """Maps of whole images B,C,h,w as each crop sees them: B,C,K,L float32 for `size_hw` K,L.

    Bilinear with half-pixel centres, just as if the whole map were enlarged to `zoomed_hw` and the crop then cut out,
    but only the crop's own pixels are computed, rows and columns each by a matrix product.
    """
    (images, classes, map_rows, map_columns), (rows, columns) = maps.shape, size_hw
    down, right = _taps_of(views, size_hw, (map_rows, map_columns), maps.device)  # B,K,h; B,L,w
    with torch.autocast(maps.device.type, enabled=False):
        wide = maps.float().transpose(1, 2).reshape(images, map_rows * classes, map_columns) @ right.transpose(1, 2)
        seen = down @ wide.view(images, map_rows, classes * columns)
    return seen.view(images, rows, classes, columns).transpose(1, 2)


@lru_cache(maxsize=4)  # labels and their weights are seen through the same crops
def _taps_of(
    views: tuple[Geometry, ...], size_hw: tuple[int, int], map_hw: tuple[int, int], device: torch.device
) -> tuple[Tensor, Tensor]:
    """Weights B,K,h of a map's rows and B,L,w of its columns, for crops of `size_hw` K,L."""
    down = taps(
        size_hw[0],
        map_hw[0],
        start=[view.top for view in views],
        length=[view.crop_hw[0] for view in views],
        whole=[view.zoomed_hw[0] for view in views],
    )
    right = taps(
        size_hw[1],
        map_hw[1],
        start=[view.left for view in views],
        length=[view.crop_hw[1] for view in views],
        whole=[view.zoomed_hw[1] for view in views],
        mirrored=[view.mirrored for view in views],
    )
    return to_device(down.numpy(), device), to_device(right.numpy(), device)


def pseudo_labels_of(probabilities: Tensor, views: tuple[Geometry, ...]) -> Tensor:
    """arg-max ẑ of whole images B,C,h,w seen through each crop's geometry: B,K,L  (equation 3).

    Logarithms are interpolated, as the deployed network interpolates logits: that comes nearer to an ensemble kept at
    full size than interpolated probabilities do (decision 8).
    """
    return strongest(seen_through(_logarithms(probabilities), views, views[0].crop_hw))


def labels_of_crops(probabilities: Tensor, size_hw: tuple[int, int]) -> Tensor:
    """arg-max ẑ of crops B,C,k,l at their pixels B,K,L for `size_hw` K,L, interpolated in the same way."""
    enlarged = F.interpolate(_logarithms(probabilities), size=size_hw, mode="bilinear", align_corners=False)
    return strongest(enlarged)


def strongest(maps: Tensor) -> Tensor:
    """arg-max over the classes of maps B,C,K,L: B,K,L int64, the first one of equals.

    On a CPU a maximum without its place and a comparison take a quarter of `max`'s time with it: they are vectorised.
    """
    count = maps.shape[1]
    ranks = torch.arange(count, 0, -1, device=maps.device, dtype=torch.uint8)  # the first class's is the highest
    found = (maps == maps.amax(dim=1, keepdim=True)).view(torch.uint8) * ranks[:, None, None]
    return (count - found.amax(dim=1).long()).clamp_max(count - 1)  # the last one where a NaN is


def _logarithms(probabilities: Tensor) -> Tensor:
    return probabilities.float().clamp_min(LEAST_PROBABILITY).log()


def student_view(
    crops: Tensor, ignored: Tensor, pasted: tuple[Tensor, Tensor, Tensor] | None, hidden: Tensor | None = None
) -> StudentView:
    """Put a view together.

    Args:
        crops: B,3,K,L normalised target crops.
        ignored: B,K,L bool, under the ignore mask or in the padding.
        pasted: source images B,3,K,L, their labels B,K,L and which of their pixels to paste B,K,L; None = none.
        hidden: B,K,L bool, pixels that the network shall not see unless they are pasted; None = it sees all.
    """
    own, labels = torch.ones_like(ignored), torch.full_like(ignored, IGNORE_ID, dtype=torch.long)
    if pasted is not None:
        images, source_labels, mask = pasted
        crops = torch.lerp(crops, images, mask[:, None].to(crops.dtype))  # 0 and 1 give either one exactly
        labels, own = torch.where(mask, source_labels, labels), ~mask
    if hidden is not None:
        hidden = hidden & own
        crops = torch.where(hidden[:, None], crops.float().mean((2, 3), keepdim=True).to(crops.dtype), crops)
    return StudentView(images=crops, own=own, visible=own & ~ignored, pasted_labels=labels, hidden=hidden)


def class_weights(labels: Tensor, class_count: int, exponent: float) -> Tensor:
    """Weights B,K,L of labels by their class's share f among them: max(f, 1 %)^−exponent; mean 1, ignored 0.

    Shares and mean are those of all ranks' labels.
    """
    flat, table = labels.flatten(), torch.zeros(IGNORE_ID + 1, device=labels.device)  # by id: nothing for the ignored
    ids = torch.zeros(IGNORE_ID + 1, dtype=torch.long, device=labels.device)
    counts = total(ids.scatter_add_(0, flat, torch.ones_like(flat))[:class_count]).float()  # C
    weights = (counts / counts.sum().clamp_min(1.0)).clamp_min(RAREST) ** -exponent
    mean = (weights * counts).sum() / counts.sum().clamp_min(1.0)
    table[:class_count] = weights / mean.clamp_min(1e-6)
    return table.index_select(0, flat).view_as(labels)


def pixel_weights(
    view: StudentView, labels: Tensor, class_count: int, *, trust: Tensor | None, class_balance: float
) -> Tensor | None:
    """B,K,L: how much each pixel of a student's view with `labels` B,K,L counts; None = all alike.

    `trust` (a scalar or B,K,L) is the weight of the target's own pixels, pasted source pixels weigh 1; classes are
    balanced by the exponent `class_balance`.
    """
    if trust is None and class_balance == 0:
        return None
    weights = torch.ones_like(labels, dtype=torch.float32)
    if trust is not None:
        weights = torch.where(view.own, trust, weights)
    return weights if class_balance == 0 else weights * class_weights(labels, class_count, class_balance)
