"""Precision is written in the graph: float32 becomes float16 or INT8 by explicit Q/DQ, once, for every engine."""

from __future__ import annotations

import enum

__path__: list[str] = []  # until version 0.2, so that its former modules are looked for and named (system/moved.py)


class Precision(enum.Enum):
    """Arithmetic of an exported graph."""

    FP32 = "fp32"
    FP16 = "fp16"
    INT8 = "int8"


class Target(enum.Enum):
    """What an INT8 graph is made for: the two want different types of activations."""

    TENSORRT = "tensorrt"
    """Signed symmetric activations, zero-points 0, nothing between Conv and ReLU."""
    CPU = "cpu"
    """ONNX Runtime's CPU kernels: unsigned activations."""
