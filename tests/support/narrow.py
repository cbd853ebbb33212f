"""The project's networks with few channels and every kind of layer: a training step or an export takes a third."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def narrow_networks() -> Iterator[None]:
    """DDRNet-23-slim has 4 planes instead of 32, EfficientNet-Lite 8 channels everywhere.

    DeepLabV2 has 4 planes instead of 64 and two blocks a layer, 8 of 33: all after a layer's first are alike.
    Wherever this process builds one. An installed package of weights fits none of them, so there is none.
    """
    from clst_train.models.built_in import ddrnet, deeplab, efficientnet_lite
    from clst_train.models.weights import pretrained

    with pytest.MonkeyPatch.context() as patch:
        for module, name, planes in ((ddrnet, "PLANES", 4), (ddrnet, "SPP_PLANES", 8), (deeplab, "PLANES", 4)):
            patch.setattr(module, name, planes)
        patch.setattr(deeplab, "BLOCKS", (2, 2, 2, 2))
        thin = tuple((kernel, stride, min(wide, 2), 8, 1) for kernel, stride, wide, *_ in efficientnet_lite.STAGES)
        for name, value in (("STAGES", thin), ("STEM", 8), ("DECODER", 8)):
            patch.setattr(efficientnet_lite, name, value)
        patch.setattr(pretrained, "BUNDLED", {})
        yield
