"""Who may see the page: everybody on this machine, elsewhere who knows the token; no other site's scripts.

A page of another site can make a browser send requests here. Its requests carry that site's `Origin` and are refused;
a name of its own that it lets point to 127.0.0.1 shows in `Host` and is refused on a loopback address.
"""

from __future__ import annotations

import hmac
import re
import secrets
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from clst_runtime.errors import ConfigError
from clst_runtime.live.web.address import WebAddress, is_loopback
from clst_runtime.system.optional import require

if TYPE_CHECKING:
    from aiohttp import web

SHORTEST_TOKEN = 16
HINT = "open the address that clst-run printed when it started"
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "media-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    "Server": "clst-run",
}


def chosen_token(address: WebAddress, given: str | None) -> str | None:
    """The token that is needed: the given one, else a new one where a network can reach the page, else None.

    Raises:
        ConfigError: the given one is too short, or not of letters, digits, `-` and `_` as addresses take them.
    """
    if given is None:
        return None if address.is_loopback else secrets.token_urlsafe(24)
    if len(given) < SHORTEST_TOKEN or re.fullmatch(r"[A-Za-z0-9_-]+", given) is None:
        raise ConfigError(
            f"the token of the web page has {len(given)} characters; "
            f"give at least {SHORTEST_TOKEN} of letters, digits, - and _, or none to have one made"
        )
    return given


class Guard:
    """Lets requests through or answers them itself."""

    def __init__(self, address: WebAddress, token: str | None) -> None:
        """Args: address: as listened on, with the real port. token: None = none is needed."""
        self._loopback, self._token = address.is_loopback, token
        self._cookie_name = f"clst_{address.port}"  # browsers share cookies between the ports of a machine
        secret = (token or "").encode()
        self._cookie = hmac.new(secret, b"clst web page", "sha256").hexdigest()

    def answer(self, request: web.Request) -> web.StreamResponse | None:
        """A refusal or a redirection; None lets the request through."""
        host = request.headers.get("Host", "")  # `request.host` would ask a name server where there is none
        if self._loopback and not is_loopback(host_of(host)):
            return refusal(403, f"this page answers to localhost only, not to the name {host_of(host)!r}")
        origin = request.headers.get("Origin")
        if origin is not None and not (host and place_of(origin) == host.lower()):
            return refusal(403, "asked by a page of another site; open this page itself")
        return None if self._token is None else self._check(request, self._token)

    def _check(self, request: web.Request, token: str) -> web.StreamResponse | None:
        if "token" in request.query:
            right = request.method in ("GET", "HEAD") and same(request.query["token"], token)
            return self._welcome(request) if right else refusal(401, f"wrong token; {HINT}")
        kind, _, bearer = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() == "bearer":
            return None if same(bearer.strip(), token) else refusal(401, "wrong token in the header Authorization")
        cookie = request.cookies.get(self._cookie_name)
        if cookie is None:
            return refusal(401, f"a token is needed; {HINT}")
        return None if same(cookie, self._cookie) else refusal(401, f"the token is of another run; {HINT}")

    def _welcome(self, request: web.Request) -> web.StreamResponse:
        """The same place without the token in its address, so that it stays in no history; a cookie instead."""
        query = {name: value for name, value in request.query.items() if name != "token"}
        place = request.rel_url.with_query(query)
        response: web.Response = require("aiohttp.web").Response(
            status=303, headers={"Location": "/" + str(place).replace("\\", "%5C").lstrip("/")}
        )
        response.set_cookie(self._cookie_name, self._cookie, httponly=True, samesite="Strict", path="/")
        return response


def host_of(header: str) -> str:
    """The host in a header `Host`, without port and brackets; empty if it is none."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def place_of(origin: str) -> str:
    """Host and port in a header `Origin`, as a header `Host` has them; empty if it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def same(given: str, right: str) -> bool:
    """Whether two texts are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode(errors="replace"), right.encode())


def refusal(status: int, text: str) -> web.Response:
    """One line of plain text."""
    headers: dict[str, Any] = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    response: web.Response = require("aiohttp.web").Response(status=status, text=text + "\n", headers=headers)
    return response
