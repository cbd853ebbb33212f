"""Cross-entropy of logits at output stride with labels at full size.

Legend: N images, C classes, H rows, W columns of the labels, h and w of the logits.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.distributed import mean_over
from clst_train.method.interpolation import resize_by_matmul


def segmentation_loss(logits: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Mean cross-entropy over labelled pixels; logits N,C,h,w are upsampled bilinearly to labels N,H,W.

    `weights` N,H,W multiply each pixel's term; the sum is divided by the number of labelled pixels all the same, so
    that low weights make the loss small. Returns a scalar; 0 (with a gradient of 0) when every pixel is ignored.
    """
    upsampled = resize_by_matmul(logits, (labels.shape[1], labels.shape[2]))
    count = (labels != IGNORE_ID).sum()
    # Summed by a kernel of its own: on CUDA the sum inside cross_entropy adds in another order each time
    terms = F.cross_entropy(upsampled, labels, ignore_index=IGNORE_ID, reduction="none")  # N,H,W
    return mean_over((terms if weights is None else terms * weights).sum(), count)
