"""How much each convolution computes. Legend: O output channels, I input channels, k,l kernel, h,w output size."""

from __future__ import annotations

from typing import Any

import numpy as np

from clst_export.graph.types import infer_types
from clst_export.quantization.int8 import Network, convolution_names, quantisable


def convolution_macs(model: Any) -> dict[str, int]:
    """Multiply-accumulate operations O·I/groups·k·l·h·w of each convolution that can be quantised, by its name."""
    network, types, wanted = Network(model), infer_types(model), set(quantisable(model))
    macs = {}
    for index, name in convolution_names(network).items():
        if name in wanted:
            node = network.nodes[index]
            weights = np.asarray(network.constant(node.input[1]))  # O,I/groups,k,l
            rows, columns = (types[node.output[0]].shape or (1, 0, 0, 0))[2:]  # static in every exported graph
            macs[name] = weights.size * rows * columns
    return macs
