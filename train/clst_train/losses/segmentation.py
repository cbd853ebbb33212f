"""Cross-entropy of logits at output stride with labels at full size.

Legend: N images, C classes, H rows, W columns of the labels, h and w of the logits.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clst_runtime.labels import IGNORE_ID


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over labelled pixels; logits N,C,h,w are upsampled bilinearly to labels N,H,W.

    `weights` N,H,W multiply each pixel's term; the sum is divided by the number of labelled pixels all the same, so
    that low weights make the loss small. Returns a scalar; 0 (with a gradient of 0) when every pixel is ignored.
    """
    upsampled = F.interpolate(logits.float(), size=labels.shape[-2:], mode="bilinear", align_corners=False)
    count = (labels != IGNORE_ID).sum().clamp_min(1)
    if weights is None:
        return F.cross_entropy(upsampled, labels, ignore_index=IGNORE_ID, reduction="sum") / count
    return (F.cross_entropy(upsampled, labels, ignore_index=IGNORE_ID, reduction="none") * weights).sum() / count
