"""Why an installed package cannot be imported, found out without importing it."""

from __future__ import annotations

import importlib.util
import os
import re
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

from clst_runtime.system.machine import package_version

OPENCV_WHEELS = (
    "opencv-python",
    "opencv-python-headless",
    "opencv-contrib-python",
    "opencv-contrib-python-headless",
)
ONNXRUNTIME_WHEELS = ("onnxruntime", "onnxruntime-gpu")
_WHEELS = {"cv2": OPENCV_WHEELS, "onnxruntime": ONNXRUNTIME_WHEELS}
"""Wheels that own the same module: the last one that was installed wins, and removing one breaks the other."""
_COMPILED_FOR = re.compile(r"\.cpython-(\d)(\d+)\w*-[^.]+\.so")


def rivals(wheels: Sequence[str]) -> list[str]:
    """Those of `wheels` that are installed into the same folder as another one of them."""
    folders: dict[str, str] = {}
    for wheel in wheels:
        try:
            folders[wheel] = str(distribution(wheel).locate_file(""))
        except PackageNotFoundError:
            continue
    places = list(folders.values())
    return [wheel for wheel, folder in folders.items() if places.count(folder) > 1]


def fault_of(module: str) -> tuple[str, str] | None:
    """What is wrong with an installed package, and the hint; None if it looks whole or is not there at all."""
    package = module.partition(".")[0]
    if sys.modules.get(package, importlib) is None:  # kept from being imported
        return None
    try:
        found = importlib.util.find_spec(package)
    except (ImportError, ValueError):  # a module without a location
        return None
    if found is not None:
        fault = _other_python(package, [Path(each) for each in found.submodule_search_locations or ()])
        if fault is not None or found.origin is not None:
            return fault
    listed = [wheel for wheel in _WHEELS.get(package, ()) if package_version(wheel)]
    if listed:
        others = " and ".join(_WHEELS[package][:2])
        return (
            f"{' and '.join(listed)} should be installed, but the files are gone: wheels like {others} own the same "
            "module, and removing one removes the other's",
            f"pip uninstall {' '.join(listed)}, then install one of them",
        )
    if found is not None and module == package:  # several packages share one, as `cuda`, whose parts are asked for
        place = next(iter(found.submodule_search_locations or ()), "?")
        return f"{place} is a folder of that name without the package in it", "move it away"
    return None


def lost_files(module: str, error: ImportError) -> tuple[str, str] | None:
    """The same where a part of a package is missing that `module` needs and nobody asked for."""
    package, name = module.partition(".")[0], error.name or ""
    if not name.startswith(f"{package}.") or f"{module}.".startswith(f"{name}."):
        return None
    wheels = sorted(set(packages_distributions().get(package, [])))
    if not wheels:
        return None
    hint = f"pip install --force-reinstall --no-deps {wheels[0]}"
    if len(wheels) > 1:
        hint = f"pip uninstall {' '.join(wheels)}, then install one of them"
    return f"of the files of {' and '.join(wheels)} {name} is gone", hint


def _other_python(package: str, folders: Sequence[Path]) -> tuple[str, str] | None:
    """The first folder with compiled parts decides: are there some of this Python's?"""
    for root in folders:
        for _folder, _folders, files in os.walk(root):
            versions = {(int(found[1]), int(found[2])) for found in map(_COMPILED_FOR.search, files) if found}
            if not versions:
                continue
            if sys.version_info[:2] in versions:
                return None
            text = " and ".join(f"{major}.{minor}" for major, minor in sorted(versions))
            here = f"{sys.version_info[0]}.{sys.version_info[1]}"
            return (
                f"{root} is built for Python {text}, this is Python {here}",
                f"take no packages of another Python onto the path (PYTHONPATH), or install {package} for this one "
                "(in a new virtual environment)",
            )
    return None
