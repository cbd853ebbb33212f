"""Messages to systemd (sd_notify(3)): ready, alive, what it is doing. Nothing where nobody listens."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from contextlib import suppress


class Notifier:
    """Sends to the socket that the service manager named in the environment."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """Args: environment: with NOTIFY_SOCKET where a manager listens; None = the process's."""
        place = (os.environ if environment is None else environment).get("NOTIFY_SOCKET", "")
        self._address = f"\0{place[1:]}" if place.startswith("@") else place
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) if place else None
        self._sent = ""

    def ready(self) -> None:
        """The first mask can come now."""
        self._send("READY=1")

    def alive(self, status: str) -> None:
        """The loop turns; `status` is shown by `systemctl status`."""
        message = "WATCHDOG=1"
        if status != self._sent:
            message, self._sent = f"{message}\nSTATUS={status}", status
        self._send(message)

    def stopping(self) -> None:
        """The end has begun."""
        self._send("STOPPING=1")

    def _send(self, message: str) -> None:
        if self._socket is not None:
            with suppress(OSError):  # a manager that is gone or busy must not stop the camera
                self._socket.sendto(message.encode(), socket.MSG_DONTWAIT, self._address)
