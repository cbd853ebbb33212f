"""What `--version` says: this project, Python, and the packages that compute."""

from __future__ import annotations

import platform

from clst_runtime.system.machine import own_version, package_version

SHOWN = {"torch": ("torch",), "ONNX Runtime": ("onnxruntime-gpu", "onnxruntime"), "TensorRT": ("tensorrt",)}
"""Packages, with the distributions that bring them."""


def version_line() -> str:
    """One line; nothing is imported, so a package that is found may still not work (`clst-doctor` tries)."""
    found = {name: next(filter(None, map(package_version, brought_by)), None) for name, brought_by in SHOWN.items()}
    packages = [f"{name} {version or 'not found'}" for name, version in found.items()]
    return ", ".join([own_version(), f"Python {platform.python_version()}", *packages])
