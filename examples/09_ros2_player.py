"""ROS 2: play a video as a camera does, again and again. Run with:

python 09_ros2_player.py drive.mp4 /camera/image_raw
"""

import array
import sys
from contextlib import suppress

import cv2
import rclpy
from rclpy.executors import ExternalShutdownException
from rclpy.node import Node
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image


class Player(Node):
    """Publishes the frames of a video at its rate."""

    def __init__(self, path: str, topic: str) -> None:
        super().__init__("player")
        self.path, self.video = path, cv2.VideoCapture(path)
        self.publisher = self.create_publisher(Image, topic, qos_profile_sensor_data)
        self.create_timer(1.0 / (self.video.get(cv2.CAP_PROP_FPS) or 30.0), self.play)

    def play(self) -> None:
        """Publish one frame."""
        good, frame = self.video.read()
        if not good:
            self.video = cv2.VideoCapture(self.path)
            return
        message = Image(height=frame.shape[0], width=frame.shape[1], encoding="bgr8", step=frame.shape[1] * 3)
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = "front"
        message.data = array.array("B", frame.tobytes())  # anything else is checked byte by byte
        self.publisher.publish(message)


if __name__ == "__main__":
    rclpy.init()
    with suppress(KeyboardInterrupt, ExternalShutdownException):
        rclpy.spin(Player(sys.argv[1], sys.argv[2]))
