"""A video as an RTSP camera: plays it in real time, again and again, as H.264 of 30 frames/s.

    /usr/bin/python3 rtsp_camera.py VIDEO [PORT]

It is at rtsp://HOST:8554/camera, for whoever reaches the port. The Dockerfile beside it names the Debian packages.
"""

import argparse
import signal
import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402  versions are chosen before the import

PLAYED = (
    "filesrc name=file ! decodebin ! videoconvert ! videoscale "
    "! video/x-raw,format=I420,width=[2,8192,2],height=[2,8192,2] "  # H.264 has no odd sizes
    "! intervideosink channel=camera max-lateness=-1 qos=false"  # on a busy machine late frames, not none
)
SERVED = (
    "( intervideosrc channel=camera timeout=60000000000 "  # ns; else black between two late frames
    "! x264enc tune=zerolatency speed-preset=ultrafast key-int-max=30 "
    "! video/x-h264,profile=baseline ! rtph264pay name=pay0 pt=96 config-interval=1 )"
)


def main(video: str, port: int) -> int:
    """Serve until SIGINT or SIGTERM; returns the exit code."""
    Gst.init(None)
    loop, failures = GLib.MainLoop(), []
    player = Gst.parse_launch(PLAYED)
    player.get_by_name("file").set_property("location", video)

    def heard(_: Gst.Bus, message: Gst.Message) -> None:
        if message.type == Gst.MessageType.EOS:
            player.seek_simple(Gst.Format.TIME, Gst.SeekFlags.FLUSH | Gst.SeekFlags.KEY_UNIT, 0)
        elif message.type == Gst.MessageType.ERROR:
            failures.append(f"{video} cannot be played as a video: {message.parse_error()[0].message}")
            loop.quit()

    player.get_bus().add_signal_watch()
    player.get_bus().connect("message", heard)
    camera = GstRtspServer.RTSPMediaFactory(launch=SERVED, shared=True)
    server = GstRtspServer.RTSPServer(service=str(port))
    server.get_mount_points().add_factory("/camera", camera)
    if server.attach(None) == 0:
        failures.append(f"cannot listen on port {port}; is another program there?")
    else:
        for number in (signal.SIGINT, signal.SIGTERM):
            GLib.unix_signal_add(GLib.PRIORITY_DEFAULT, number, loop.quit)
        player.set_state(Gst.State.PLAYING)
        print(f"camera: {video} at rtsp://HOST:{port}/camera", flush=True)
        loop.run()
    player.set_state(Gst.State.NULL)
    if failures:
        print(f"error: {failures[0]}", file=sys.stderr)
    return 3 if failures else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("video")
    parser.add_argument("port", nargs="?", type=int, default=8554)
    sys.exit(main(**vars(parser.parse_args())))
