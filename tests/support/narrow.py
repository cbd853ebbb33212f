"""The project's networks with every layer but few channels: a training step or an export takes a third of the time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest


@contextmanager
def narrow_networks() -> Iterator[None]:
    """DDRNet-23-slim has 4 planes instead of 32, DeepLabV2 4 instead of 64, EfficientNet-Lite 8 channels everywhere.

    Wherever this process builds one. An installed package of weights fits none of them, so there is none.
    """
    from clst_train.models.built_in import ddrnet, deeplab, efficientnet_lite
    from clst_train.models.weights import pretrained

    with pytest.MonkeyPatch.context() as patch:
        for module, name, planes in ((ddrnet, "PLANES", 4), (ddrnet, "SPP_PLANES", 8), (deeplab, "PLANES", 4)):
            patch.setattr(module, name, planes)
        thin = tuple((kernel, stride, min(wide, 2), 8, 1) for kernel, stride, wide, *_ in efficientnet_lite.STAGES)
        for name, value in (("STAGES", thin), ("STEM", 8), ("DECODER", 8)):
            patch.setattr(efficientnet_lite, name, value)
        patch.setattr(pretrained, "BUNDLED", {})
        yield
