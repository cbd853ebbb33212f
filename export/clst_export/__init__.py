"""From checkpoint to verified model files."""

from clst_runtime.system import moved as _moved  # noqa: F401  (a hint at an old import path)

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "cv2")
"""Modules that an export needs."""
