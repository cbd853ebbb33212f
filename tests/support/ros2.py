"""A ROS 2 for tests: that of `make test`, or the one that is sourced; programs get it by their environment."""

import functools
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import ROOT

NODES = ROOT / "tests/support/ros2_nodes.py"
PREFIX = ROOT / ".venv/ros2"


@functools.cache
def environment():
    """Variables for a program that uses ROS 2; none where there is no ROS 2."""
    packages = PREFIX / f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    if (packages / "rclpy").is_dir():
        libraries = [PREFIX / "lib", *sorted(packages.glob("ros_*.libs"))]
        found = {"PYTHONPATH": str(packages), "LD_LIBRARY_PATH": ":".join(map(str, libraries)),
                 "AMENT_PREFIX_PATH": str(PREFIX)}  # fmt: skip
    elif importlib.util.find_spec("rclpy") is not None:
        found = {}
    else:
        return None
    # Domains 0 to 101 have ports of their own on every system; other runs at the same time must not hear this one
    return {**os.environ, **found, "ROS_DOMAIN_ID": str(1 + os.getpid() % 100), "ROS_LOCALHOST_ONLY": "1",
            "ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "OMP_NUM_THREADS": "1"}  # fmt: skip


needs_ros2 = pytest.mark.skipif(
    environment() is None, reason="no ROS 2 here: make test installs it in .venv/ros2, or source a setup.bash"
)


def node(what, folder, **settings):
    """Start a node of `ros2_nodes`; a listener's lines go into `folder`/heard."""
    output = (Path(folder) / "heard").open("w") if what == "listen" else subprocess.DEVNULL
    return subprocess.Popen([sys.executable, str(NODES), what, json.dumps(settings)], env=environment(), stdout=output)


def heard(folder):
    """Messages that a listener got, as far as their lines are whole."""
    text = (Path(folder) / "heard").read_text()
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
