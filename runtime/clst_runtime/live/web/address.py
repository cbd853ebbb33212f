"""Where the page listens: on this machine alone unless an address is given."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from dataclasses import dataclass

from clst_runtime.errors import ConfigError

LOOPBACK = "127.0.0.1"
HOST_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?\Z")
UNREAD_SECONDS = 30.0
"""So long what was sent may wait for its reader; one who has stopped reading must not hold his place for ever."""
FILES_NEEDED = 16
"""Files that a page opens while it starts and for its first viewers."""
MORE_FILES = "allow this program more open files (ulimit -n, LimitNOFILE= of a service)"
USAGE = "give a port (8080), an address and a port (0.0.0.0:8080, [::]:8080), or localhost:8080"


@dataclass(frozen=True, kw_only=True)
class WebAddress:
    """An address to listen on."""

    host: str = LOOPBACK
    """A number of IPv4 or IPv6 without brackets, or a name of this machine."""
    port: int
    """0 takes any port that is free."""

    @property
    def is_loopback(self) -> bool:
        """Whether only programs on this machine can reach it."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host of an address or of a header `Host` is this machine by definition, whatever name servers say."""
    if host.lower().rstrip(".") == "localhost":
        return True
    number = _number(host)
    return number is not None and number.is_loopback


def parse_web_address(text: str) -> WebAddress:
    """Read `8080`, `localhost:8080`, `0.0.0.0:8080` or `[::]:8080`; a port alone is of this machine alone.

    Raises:
        ConfigError: neither of these forms, or a port outside 0 … 65535.
    """
    host, colon, digits = text.strip().rpartition(":")
    if not digits.isascii() or not digits.isdigit() or int(digits[:6]) > 65535:
        raise ConfigError(f"{text!r} is no address for the web page; {USAGE}, ports up to 65535")
    if not colon:
        return WebAddress(port=int(digits))
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        if not isinstance(_number(host), ipaddress.IPv6Address):
            raise ConfigError(f"{text!r}: {host!r} is no address of IPv6; {USAGE}")
    elif not isinstance(_number(host), ipaddress.IPv4Address) and (
        HOST_NAME.match(host) is None or re.fullmatch(r"[0-9.]+", host)
    ):
        raise ConfigError(f"{text!r}: {host!r} is no address of a machine; {USAGE}")
    return WebAddress(host=host, port=int(digits))


def _number(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def need_files() -> None:
    """Raises: ConfigError: this program may not open the files that a page needs, which would break it half-way."""
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY) for _ in range(FILES_NEEDED))
    except OSError as error:
        raise ConfigError(f"the web page cannot start: {error.strerror}; {MORE_FILES}") from error
    finally:
        for each in opened:
            os.close(each)


def listen(address: WebAddress) -> socket.socket:
    """A socket that accepts connections at `address`; who reads nothing of what is sent is let go by the system.

    Raises:
        ConfigError: the port is taken or reserved, or the address is none of this machine's.
    """
    try:
        host = LOOPBACK if address.host.lower() == "localhost" else address.host
        family = socket.getaddrinfo(host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        both = host == "::" and socket.has_dualstack_ipv6()
        listening = socket.create_server((host, address.port), family=family, dualstack_ipv6=both)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # of Linux; connections have it from the socket that accepts them
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(1000 * UNREAD_SECONDS))
        return listening
    except (OSError, UnicodeError) as error:  # UnicodeError: a part of the name is too long for any machine
        raise ConfigError(
            f"the web page cannot listen on {shown(address.host)}:{address.port}: {_hint(error)}"
        ) from error


def _hint(error: OSError | UnicodeError) -> str:
    if isinstance(error, UnicodeError):
        return "no machine has such a name; 0.0.0.0 listens on all addresses of this one"
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return f"{error.strerror}; {MORE_FILES}"
    if error.errno == errno.EADDRINUSE:
        return "another program has this port; end it, or give another port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return "ports below 1024 are reserved; give a higher one, such as 8080"
    if isinstance(error, socket.gaierror) or error.errno == errno.EADDRNOTAVAIL:
        return "this machine has no such address; 0.0.0.0 listens on all that it has"
    return f"{error.strerror or error}; give another address"


def shown(host: str) -> str:
    """A host as it stands in a URL: IPv6 in brackets."""
    return f"[{host}]" if ":" in host else host


def reachable_host(host: str) -> str:
    """A host to open in a browser: for `0.0.0.0` and `::` the address that the network knows this machine by."""
    if host not in ("0.0.0.0", "::"):
        return host
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # of the block for documentation; UDP sends nothing on connect
            return str(probe.getsockname()[0])
        except OSError:  # no route out, as in a closed network
            return socket.gethostname()
