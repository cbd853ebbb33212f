"""Live segmentation on the vehicle: numpy in, numpy out. Imports neither torch nor onnx."""

from clst_runtime.system import moved as _moved  # noqa: F401  (a hint at an old import path)
