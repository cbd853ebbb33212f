"""One forward pass of training, as a module that DistributedDataParallel can go around.

Legend: N images, H rows, W columns; P projection channels, h,w at output stride.
"""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from clst_train.compute.distributed import is_split
from clst_train.models.segmenter import Segmenter, TrainingOutputs
from clst_train.models.wrapped import WrappedNetwork


class ForwardPass(nn.Module):
    """Segmenter and projection head in one pass; several of them may come before one backward pass."""

    def __init__(
        self, segmenter: Segmenter, projection: nn.Module | None = None, *, keeps_auxiliary: bool = True
    ) -> None:
        super().__init__()
        self.segmenter, self.projection, self.keeps_auxiliary = segmenter, projection, keeps_auxiliary

    def forward(self, images: Tensor) -> tuple[TrainingOutputs, Tensor | None]:
        """Images N,3,H,W to the training outputs and the projections N,P,h,w; None without a projection head."""
        outputs = self.segmenter.training_outputs(images)
        if not self.keeps_auxiliary:
            outputs = replace(outputs, auxiliary=None)
        return outputs, None if self.projection is None else self.projection(outputs.features)


def forward_pass_of(segmenter: Segmenter, projection: nn.Module | None) -> nn.Module:
    """The passes; with several processes gradients are means over them.

    Every parameter needs a gradient in each step there, or the ranks wait for one another: the auxiliary head, whose
    loss counts in source training alone, is left out with a projection head.
    """
    if not is_split():
        return ForwardPass(segmenter, projection)
    passes = ForwardPass(segmenter, projection, keeps_auxiliary=projection is None)
    head = getattr(segmenter, "auxiliary_head", None)
    if head is not None:
        head.requires_grad_(projection is None)
    # Buffers are alike on all ranks already (`SynchronisedNorm`), and a broadcast between two passes would change
    # in place what the first one's gradient needs.
    known = inspect.signature(nn.parallel.DistributedDataParallel.__init__).parameters
    setting = "forward_sync_buffers" if "forward_sync_buffers" in known else "broadcast_buffers"  # the older name
    # A network of somebody else's may have parts that no loss reaches
    options: dict[str, Any] = {setting: False, "find_unused_parameters": isinstance(segmenter, WrappedNetwork)}
    return nn.parallel.DistributedDataParallel(passes, **options)
