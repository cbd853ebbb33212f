"""ROS 2: segment a topic of images. Run with:

    ros2 launch 08_ros2.launch.py model:=model.onnx image:=/camera/image_raw

`clst-run` must be on the PATH: activate its environment and source ROS's setup.bash in the same shell.
"""

from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node
from launch_ros.parameter_descriptions import ParameterValue

ARGUMENTS = {
    "model": (None, "ONNX file, engine or bundle"),
    "image": ("/camera/image_raw", "topic of sensor_msgs/Image or CompressedImage"),
    "namespace": ("", "of the node, whose masks are at NAMESPACE/clst/mask"),
    "deadline_ms": ("100", "a mask older than this is a miss"),
    "use_sim_time": ("false", "time from /clock"),
}


def generate_launch_description() -> LaunchDescription:
    """One node; a second camera is a second one in another namespace."""
    given = {name: LaunchConfiguration(name) for name in ARGUMENTS}
    node = Node(
        executable="clst-run",
        name="clst",
        namespace=given["namespace"],
        arguments=[given["model"], "--source", "ros2:image", "--ros2", "clst", "--deadline-ms", given["deadline_ms"]],
        remappings=[("image", given["image"])],
        parameters=[{"use_sim_time": ParameterValue(given["use_sim_time"], value_type=bool)}],
        output="screen",
    )
    declared = [
        DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in ARGUMENTS.items()
    ]
    return LaunchDescription([*declared, node])
