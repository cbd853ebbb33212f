"""mIoU while training, measured on the very function that is exported, with the new camera's statistics."""

from __future__ import annotations

import copy
from collections.abc import Iterable

from torch import Tensor

from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.evaluation.evaluate import evaluate
from clst_train.config import Config
from clst_train.method.batchnorm import estimate_statistics
from clst_train.models.checkpoint_backend import segmenter_backend
from clst_train.models.segmenter import Segmenter


def validation_miou(
    segmenter: Segmenter, dataset: LabelledDataset, config: Config, batches: Iterable[Tensor] | None
) -> float:
    """mIoU (0 … 1) of a copy of the network whose BatchNorm statistics are estimated on `batches` (N,3,H,W each).

    The network itself is not touched. Without `batches` its running statistics are used.
    """
    network = copy.deepcopy(segmenter)
    if batches is not None:
        estimate_statistics(network, batches)
    model = config.model
    backend = segmenter_backend(
        network.eval(), network=model.network, classes=dataset.classes, input_hw=model.input_hw, fit=config.fit
    )
    return evaluate(backend, dataset).miou
