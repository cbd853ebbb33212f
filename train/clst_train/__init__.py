"""Training on the labelled old camera and CLST adaptation to the unlabelled new one."""

PACKAGES = ("torch", "cv2", "tqdm", "matplotlib", "tomli_w")
"""Modules that training needs."""
