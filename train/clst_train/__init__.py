"""Training on the labelled old camera and CLST adaptation to the unlabelled new one."""

from clst_runtime.system import moved as _moved  # noqa: F401  (a hint at an old import path)

PACKAGES = ("torch", "cv2", "tqdm", "matplotlib")
"""Modules that training needs."""
