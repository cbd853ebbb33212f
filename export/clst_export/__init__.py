"""From checkpoint to verified model files."""

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "cv2")
"""Modules that an export needs."""
