"""Users, passwords, tokens and keys appear in no message, report, page or file: all text goes through here.

An address keeps its scheme, host and port, what names a stream in its path, and options that hide nothing. What
cannot be distinguished from a secret is hidden, too: the path /live/x7Gf90 may be all that opens a stream.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, unquote

HIDDEN = "…"
LEAST_KNOWN, LEAST_WITHIN = 4, 8
"""Letters of a secret that is looked for by itself, and of one that is looked for inside of words as well."""

_NAME = (
    r"(?<![\w.-])(?:[\w.-]{0,99}(?:pass|pwd|token|secret|key|auth|cred|user|login|session|signature|stream-?id|playpath"
    r"|cookie|jwt)[\w.-]{0,99}|(?:[\w.-]{0,99}[_.-])?(?:pw|pin|sig|uid))"
)
_SECRET_NAME = re.compile(rf"{_NAME}\Z", re.IGNORECASE)
_SETTING = re.compile(  # but key=value, which messages of this project say of how to write a setting
    rf"""({_NAME}\s*=(?!=)\s*(?:\(\w+\)\s*)?)(?!{HIDDEN}|value\b)(\\?"(?:[^"\\]|\\.)*"|'[^']*'|(?:\\.|[^\s\\])+)""",
    re.IGNORECASE,
)
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|(?:set-)?cookie|x-[\w-]*(?:key|token|auth))([\"']?\s*[:=]\s*)\S[^\n]*", re.IGNORECASE
)
_ADDRESS = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]{1,30}):(/+)   # scheme; one slash where a path was made of it
    (   [^\s/@:]*:(?!\d{1,5}(?:[\s/?#"'),;]|$))[^@\n]*@[^\s"'<>]*   # no port: a password, may hold spaces
    |   (?:\S*@)?[^\s"'<>]*
    )""",
    re.VERBOSE,
)
_WITHOUT_SCHEME = re.compile(r"(?<![\w/.:-])[\w.+-]+:([^\s/]\S*)@(?=[\w\[])")
_STREAMS = ("rtsp", "rtmp", "srt", "rist", "rtp", "udp", "tcp", "http", "ftp", "ws")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?)(:\d{1,5})?\Z")
_PLAIN_OPTION = re.compile(
    r"(?:channel|subtype|size|fps|format|layout|live|mode|latency|timeout|resolution|transport)\Z", re.IGNORECASE
)
_WORD = (
    r"(?:live|stream(?:s|ing)?|cam|camera|video|audio|channels?|main|sub|media|profile|preview|realmonitor|unicast"
    r"|multicast|onvif|axis|cgi|bin|amp|app|mjpe?g|mjpg|jpe?g|mp4|h26[45]|hevc|hls|dash|sdp|m3u8|index|image|view|front|rear"
    r"|back|left|right|top|high|low)"
)
_PIECE = rf"(?:(?:{_WORD}{{1,2}}|[a-z]{{1,2}})\d{{0,3}}|\d{{1,3}})"
_PLAIN_PART = re.compile(rf"(?:{_PIECE}(?:[_.-]{_PIECE}){{0,3}})?\Z", re.IGNORECASE)
_known: tuple[str, ...] = ()


def without_credentials(text: str) -> str:
    """`text` (an address, a message, a line that a library printed) with `…` for what is or may be a secret."""
    for secret in _known:
        found = re.escape(secret)
        text = re.sub(found if len(secret) >= LEAST_WITHIN else rf"(?<!\w){found}(?!\w)", HIDDEN, text)
    text = _WITHOUT_SCHEME.sub(f"{HIDDEN}@", _ADDRESS.sub(_shown_address, text))
    text = _HEADER.sub(rf"\1\2{HIDDEN}", text)
    return _SETTING.sub(_shown_setting, text)


def all_without_credentials(value: Any) -> Any:
    """The same for every text in plain JSON values; keys stay."""
    if isinstance(value, str):
        return without_credentials(value)
    if isinstance(value, dict):
        return {key: all_without_credentials(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [all_without_credentials(entry) for entry in value]
    return value


@contextmanager
def keeping_secret(arguments: Iterable[str]) -> Iterator[None]:
    """Meanwhile the secrets in a command's arguments are hidden wherever they stand, in an address or not.

    A library writes its own messages about a wrong password or stream key. Threads of the process see the same.
    """
    global _known
    before = _known
    found = {secret for argument in arguments for secret in secrets_of(argument) if len(secret) >= LEAST_KNOWN}
    _known = tuple(sorted({*before, *found}, key=len, reverse=True))
    try:
        yield
    finally:
        _known = before


def secrets_of(argument: str) -> set[str]:
    """Passwords, values of secret options and long unknown parts of paths, as written and percent-encoded or not."""
    found = {setting[2].strip("\\\"'") for setting in _SETTING.finditer(_ADDRESS.sub("", argument))}
    found |= {user[1] for user in _WITHOUT_SCHEME.finditer(argument)}
    for address in _ADDRESS.finditer(argument):
        if not _is_address(address):
            continue
        parts = _Parts.of(address[3])
        found |= {parts.user, parts.user.partition(":")[2]}
        found |= {value for name, value in parts.options() if _is_secret(name, value)}
        found |= {part for part in parts.path.split("/") if len(part) >= LEAST_WITHIN and not _PLAIN_PART.match(part)}
    found |= {piece for secret in found for piece in re.split(r"[\s/?#@:&]", secret)}
    return {form for secret in found for form in (secret, unquote(secret), quote(unquote(secret), safe=""))}


@dataclass(frozen=True, kw_only=True)
class _Parts:
    """What follows scheme and slashes; `host` with its port is empty where it may be a password."""

    user: str
    host: str
    path: str
    query: str

    @staticmethod
    def of(rest: str) -> _Parts:
        """A user and a password may hold `/`, `?` and `@` unescaped, though no library takes them so."""
        option = re.search(r"[?#](?=[\w-]+(?:[=&]|\Z))", rest)
        head, query = (rest, "") if option is None else (rest[: option.start()], rest[option.start() :])
        first = re.split("[/?#]", head)[0]
        inner = first.rpartition("@")[2]
        known = "@" not in head[len(first) :] or _is_clearly_a_host(inner, alone=inner == first)
        user, at, after = (first if known else head).rpartition("@")
        host = re.split("[/?#]", after)[0]
        if _HOST.match(host) is None:
            return _Parts(user=rest if "@" in rest else "", host="", path="", query="")
        return _Parts(user=user, host=host, path=head[len(user + at + host) :], query=query)

    def options(self) -> Iterator[tuple[str, str]]:
        """Name and value of each; a value without a name has an empty one."""
        for option in re.split("[&;?#]", self.query):
            name, found, value = option.partition("=")
            if option:
                yield (name, value) if found and re.fullmatch(r"[A-Za-z_-]{1,24}", name) else ("", option)


def _is_clearly_a_host(text: str, *, alone: bool) -> bool:
    """Whether what stands before the first slash is a host, although an `@` comes later; alone = no `@` before it."""
    found = _HOST.match(text)
    if found is None:
        return False
    try:
        ipaddress.ip_address(found[1].strip("[]"))
    except ValueError:
        return found[1].lower() == "localhost" or (alone and ("." in found[1] or found[2] is None))
    return True


def _is_address(found: re.Match[str]) -> bool:
    """A single slash is one of a path, unless the scheme is a stream's or somebody's name comes before a host."""
    return found[2] != "/" or "@" in found[3] or found[1].lower().startswith(_STREAMS)


def _is_secret(name: str, value: str) -> bool:
    return _SECRET_NAME.match(name) is not None or (_PLAIN_OPTION.match(name) is None and len(value) > 3)


def _shown_address(found: re.Match[str]) -> str:
    if not _is_address(found):
        return found[0]
    rest = found[3].rstrip(").,:;]}!")
    after, parts = found[3][len(rest) :], _Parts.of(rest)
    begin = f"{found[1]}:{found[2]}"
    if not parts.host:
        return f"{begin}{HIDDEN}{after}" if rest else found[0]
    path = "/".join(part if _PLAIN_PART.match(part) else HIDDEN for part in parts.path.split("/"))
    shown = [HIDDEN if _is_secret(name, value) else value for name, value in parts.options()]
    named = [f"{name}={value}" if name else value for (name, _), value in zip(parts.options(), shown, strict=True)]
    query = f"?{'&'.join(named)}" if named else ""
    return f"{begin}{f'{HIDDEN}@' if parts.user else ''}{parts.host}{path}{query}{after}"


def _shown_setting(found: re.Match[str]) -> str:
    after = "" if found[2][0] in "\"'\\" else found[2][len(found[2].rstrip("\"'`)]},:;.")) :]
    return f"{found[1]}{HIDDEN}{after}"
