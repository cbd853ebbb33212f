"""Names and arguments of ROS 2 nodes, and what is said where there is no ROS 2."""

import subprocess
import sys

import pytest

from clst_runtime.cli.ros_arguments import split
from clst_runtime.errors import ConfigError
from clst_runtime.sources.address import live_address
from clst_runtime.system.ros2 import node_arguments
from tests.support.shell import shell

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_arguments_of_ros_end_with_two_dashes_or_the_line():
    assert split(["m", "--ros-args", "-r", "a:=b", "--", "--web", "80", "--ros-args", "-p", "c:=d"]) == (
        ["m", "--web", "80"],
        ("-r", "a:=b", "-p", "c:=d"),
    )
    assert split(["m", "--", "x"]) == (["m", "--", "x"], ())


def test_a_node_s_name_comes_after_what_was_given_so_that_that_counts():
    named = ("--ros-args", "-r", "__node:=clst", "-r", "__ns:=/")
    assert node_arguments(None) == node_arguments("clst") == named
    given = ("--ros-args", "-r", "__node:=x", "--", "--ros-args", "-r", "__node:=eyes", "-r", "__ns:=/front/left")
    assert node_arguments("/front/left/eyes", ("-r", "__node:=x")) == given


@pytest.mark.parametrize("name", ["", "/", "a-b", "1st", "a//b", "a/"])
def test_a_name_that_no_node_can_have_is_refused(name):
    with pytest.raises(ConfigError, match="a node's name has letters"):
        node_arguments(name or "/")


def test_a_topic_s_name_is_checked_before_anything_starts():
    address = live_address("ros2:/camera/image_raw")
    assert (address.kind, address.place) == ("ros2", "/camera/image_raw")
    for uri in ("ros2:", "ros2:/a b", "ros2:/camera/image-raw", "ros2:/1"):
        with pytest.raises(ConfigError, match="as ros2:/camera/image_raw"):
            live_address(uri)


def test_without_ros_2_a_line_says_which_package_for_which_python(tmp_path, rgb_model):
    absent = "import sys; sys.modules['rclpy'] = None; from clst_runtime.cli.run import main; main(sys.argv[1:])"
    call = [sys.executable, "-c", absent, str(rgb_model), "--source", "ros2:/image"]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith(f"error: ros2:/image: rclpy of ROS 2 cannot be imported by Python {HERE}; ")
    (tmp_path / "rclpy").mkdir()
    (tmp_path / "rclpy/__init__.py").write_text("raise RuntimeError('it must not be imported')")
    (tmp_path / "rclpy/_rclpy_pybind11.cpython-39-x86_64-linux-gnu.so").touch()
    done = shell("clst-run", rgb_model, "--source", tmp_path, "--ros2", "x", environment={"PYTHONPATH": str(tmp_path)})
    assert done.returncode == 5
    said = f"error: --ros2: {tmp_path}/rclpy is for Python 3.9, this is {HERE}; make the virtual environment with"
    assert done.stderr.startswith(said)


def test_arguments_of_ros_without_a_node_are_refused(tmp_path, rgb_model):
    done = shell("clst-run", rgb_model, "--source", tmp_path, "--ros-args", "-r", "a:=b")
    assert done.returncode == 2
    assert "--ros-args is for --source ros2:/TOPIC or --ros2 NODE" in done.stderr
