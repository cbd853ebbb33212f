"""ROS 2: whether it is here, and a node of it.

rclpy is imported by processes that do nothing but ROS: its threads, its locks and its signal handlers never reach the
program itself. Only what is the same in Humble, Jazzy and later is used.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from clst_runtime.errors import ConfigError, MissingDependency, message_of
from clst_runtime.system.optional import extra, require

PACKAGES = ("rclpy", "sensor_msgs", "std_msgs", "diagnostic_msgs")
"""What `clst` needs of ROS 2, all of them in ros-base."""
DEFAULT_NAME = "/clst"
BINARY = "_rclpy_pybind11.cpython-"
"""How rclpy's compiled part is called, before the Python that it is for."""
_TOKEN = "[A-Za-z_][A-Za-z0-9_]*"


def check_ros2(user: str) -> None:
    """Look for ROS 2 without importing it. `user`: the option that needs it.

    Raises:
        MissingDependency: it is not in this environment, or for another Python.
    """
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    for package in PACKAGES:
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise MissingDependency(f"{user}: {package} of ROS 2 cannot be imported by Python {here}; {_cure()}")
        if package == "rclpy":
            _check_python(Path(found.origin).parent, user, here)


def _check_python(folder: Path, user: str, here: str) -> None:
    others = sorted(re.sub(r"^(\d)(\d+).*", r"\1.\2", each.name[len(BINARY) :]) for each in folder.glob(f"{BINARY}*"))
    if others and here not in others:
        raise MissingDependency(
            f"{user}: {folder} is for Python {', '.join(others)}, this is {here}; make the virtual environment with "
            f"python{others[0]}"
        )


def _cure() -> str:
    installed = sorted(Path("/opt/ros").glob("*/setup.bash"))
    if installed:
        return f"source {installed[-1]} in this shell first"
    return (
        "apt-get install ros-humble-ros-base (Python 3.10) or ros-jazzy-ros-base (3.12) and source its setup.bash, or "
        f"without a ROS of the system: pip install {extra('ros2')} (x86-64)"
    )


def node_arguments(name: str | None, given: tuple[str, ...] = ()) -> tuple[str, ...]:
    """ROS arguments that call a node as `name` (`clst`, `/front/clst`), where those that were given do not.

    Raises:
        ConfigError: it cannot be a node's name.
    """
    name = name or DEFAULT_NAME
    if not re.fullmatch(f"/?({_TOKEN}/)*{_TOKEN}", name):
        raise ConfigError(f"--ros2 {name!r}: a node's name has letters, digits and _, as /front/clst")
    space, _, last = name.rpartition("/")
    named = ("--ros-args", "-r", f"__node:={last}", "-r", f"__ns:=/{space.strip('/')}")
    return (*(("--ros-args", *given, "--") if given else ()), *named)  # the first rule that fits counts


def is_topic(name: str) -> bool:
    """Whether it can name a topic: `/camera/image_raw`, `image_raw`, `~/image`."""
    return re.fullmatch(f"(/|~/)?({_TOKEN}/)*{_TOKEN}", name) is not None


class RosNode:
    """One node with its executor, in a process of its own."""

    def __init__(self, arguments: tuple[str, ...], *, beside: str = "") -> None:
        """Args: arguments: as of `node_arguments`. beside: appended to the name, with the same parameters.

        Raises:
            MissingDependency: rclpy cannot be imported. ConfigError: ROS refuses the arguments.
        """
        rclpy, signals = require("rclpy"), require("rclpy.signals")
        node_class, executors = require("rclpy.node").Node, require("rclpy.executors")
        try:
            rclpy.init(args=list(arguments), signal_handler_options=signals.SignalHandlerOptions.NO)
            self.node = _beside(node_class, beside) if beside else node_class("clst")
        except Exception as error:  # rclpy's own kinds differ from one distribution to the next
            raise ConfigError(f"ROS 2 does not start: {message_of(error)}") from error
        self._rclpy, self.executor = rclpy, executors.SingleThreadedExecutor()
        self.executor.add_node(self.node)

    def now_ns(self) -> int:
        """ROS time: simulated where `use_sim_time` is set."""
        return int(self.node.get_clock().now().nanoseconds)

    def is_simulated(self) -> bool:
        """Whether ROS time is that of /clock."""
        return bool(self.node.get_clock().ros_time_is_active)

    def leave(self) -> None:
        """Tell the other nodes that this one has gone."""
        self.executor.shutdown(timeout_sec=0.2)
        self.node.destroy_node()
        self._rclpy.try_shutdown()


def _beside(node_class: Any, beside: str) -> Any:
    """A node with the parameters of the one that the arguments name, and `beside` after its name."""
    named = node_class(
        "clst", start_parameter_services=False, enable_rosout=False,
        allow_undeclared_parameters=True, automatically_declare_parameters_from_overrides=True,
    )  # fmt: skip
    name, space = f"{named.get_name()}{beside}", named.get_namespace()
    parameters = list(named.get_parameters_by_prefix("").values())
    named.destroy_node()
    renamed = ["--ros-args", "-r", f"__node:={name}", "-r", f"__ns:={space}"]
    return node_class("clst", cli_args=renamed, parameter_overrides=parameters)


def mismatches(node: Any, topic: str) -> list[str]:
    """Why other nodes' publishers or subscriptions of a topic and this node's own cannot reach each other."""
    qos, found = require("rclpy.qos"), []
    for offered in node.get_publishers_info_by_topic(topic):
        for asked in node.get_subscriptions_info_by_topic(topic):
            own = [_is_of(node, offered), _is_of(node, asked)]
            if any(own) and not all(own):
                fits, reason = qos.qos_check_compatible(offered.qos_profile, asked.qos_profile)
                other = (asked if own[0] else offered).node_name
                if fits == qos.QoSCompatibility.ERROR:
                    found.append(f"the QoS of {topic} does not fit {other}: {_lines(reason)}")
    return found


def _is_of(node: Any, endpoint: Any) -> bool:
    return (endpoint.node_name, endpoint.node_namespace) == (node.get_name(), node.get_namespace())


def _lines(reason: str) -> str:
    return ", ".join(each.removeprefix("ERROR: ") for each in " ".join(reason.split()).strip(";").split(";"))
