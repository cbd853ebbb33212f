"""Whether TensorRT for RTX has to be installed where the tests run. Nothing here runs an engine."""

from __future__ import annotations

import os
import sys

from packaging.requirements import Requirement

from tests import ROOT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

LACKING = "the parser and the builder of TensorRT for RTX were not asked"


def must_be_there() -> bool:
    """Whether the tests decide here, on a machine that NVIDIA has wheels for: then a skip would look like a pass."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    markers = [Requirement(each).marker for each in project["optional-dependencies"]["rtx"]]
    return bool(os.environ.get("CI")) and all(marker is None or marker.evaluate() for marker in markers)
