"""The arguments that every ROS 2 program takes beside its own, as `--ros-args -p use_sim_time:=true`."""

from __future__ import annotations

from typing import Any

import click

from clst_runtime.cli.command import Command
from clst_runtime.system.ros2 import check_ros2, node_arguments


class RosCommand(Command):
    """A command that gets them as `ros_args`, without the `--ros-args` before and the `--` after them."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does, with what ROS reads taken out."""
        own, ros = split(args)
        rest = super().parse_args(ctx, own)
        ctx.params["ros_args"] = ros
        return rest


def split(args: list[str]) -> tuple[list[str], tuple[str, ...]]:
    """The command's own arguments, and those from each `--ros-args` to the next `--` or the end."""
    own: list[str] = []
    ros: list[str] = []
    into = own
    for each in args:
        if each == "--ros-args":
            into = ros
        elif each == "--" and into is ros:
            into = own
        else:
            into.append(each)
    return own, tuple(ros)


def check_ros(source: str, options: dict[str, Any]) -> None:
    """Refuse what needs ROS 2 where there is none. Raises: UsageError, ConfigError, MissingDependency."""
    users = [source] * source.startswith("ros2:") + ["--ros2"] * (options["ros2"] is not None)
    if options["ros_args"] and not users:
        raise click.UsageError("--ros-args is for --source ros2:/TOPIC or --ros2 NODE")
    ros_arguments(options)
    if users:
        check_ros2(users[0])


def ros_arguments(options: dict[str, Any]) -> tuple[str, ...]:
    """Arguments of the run's ROS 2 nodes. Raises: ConfigError: a name that cannot be one."""
    return node_arguments(options["ros2"] or options.get("camera"), options["ros_args"])
