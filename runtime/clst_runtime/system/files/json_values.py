"""Text and JSON that others wrote: decoded, and each value checked for type and range before it is used.

Everything here raises ValueError with the reason, but for what reads a file; a caller knows the kind of file
and the hint. A file that was made to do harm (huge, nested deep, numbers of many digits) costs no time.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from clst_runtime.errors import DataError, did_you_mean
from clst_runtime.system.numbers import LARGEST_INTEGER, is_usable

MOST_BYTES = 4 << 20
"""Size of a text that is read at all; the largest known (a manifest with a camera's reference) has 0.3 MiB."""
MOST_DIGITS, MOST_DEPTH = 30, 20
MOST_LETTERS = 200
"""Length of a name."""
SHOWN = 60
Value = TypeVar("Value")
Number = TypeVar("Number", int, float)


def read_text(path: Path) -> str:
    """A file in UTF-8, with or without a byte order mark.

    Raises:
        DataError: it cannot be read, is too large, or in another encoding.
    """
    try:
        with path.open("rb") as stream:
            content = stream.read(MOST_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    if len(content) > MOST_BYTES:
        raise DataError(f"{path} has more than {MOST_BYTES >> 20} MiB, which is none of the files expected here")
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise DataError(f"{path} is in UTF-16; save it in UTF-8")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8 (byte {error.start}); save it in UTF-8") from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
        DataError: unreadable, not JSON, or not an object.
    """
    text = read_text(path)
    try:
        return parse_object(text)
    except ValueError as error:
        raise DataError(f"{path} is not readable JSON: {error}") from error


def parse_object(text: str) -> dict[str, Any]:
    """A JSON object; numbers are finite and names come once in each object."""
    if len(text) > MOST_BYTES:
        raise ValueError(f"{len(text) >> 20} MiB of text")
    try:
        value = json.loads(
            text, parse_constant=_no_number, parse_float=_float, parse_int=_int, object_pairs_hook=_each_name_once
        )
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError(f"a {type(value).__name__}, expected a JSON object")
    _check_depth(value)
    return value


def _check_depth(value: Any) -> None:
    level = [value]
    for _ in range(MOST_DEPTH):
        level = [
            inner
            for each in level
            for inner in (each.values() if isinstance(each, dict) else each)
            if isinstance(inner, (dict, list))
        ]
        if not level:
            return
    raise ValueError("nested too deep")


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is not a usable number")


def _float(text: str) -> float:
    return _usable(float(text), text)


def _int(text: str) -> int:
    return _usable(int(text) if len(text) <= MOST_DIGITS else LARGEST_INTEGER + 1, text)


def _usable(value: Number, text: str) -> Number:
    if not is_usable(value):
        raise ValueError(f"{shown(text)} is not a usable number")
    return value


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{shown(next(name for name in names if names.count(name) > 1))} is there twice")
    return found


def shown(value: object) -> str:
    """A value in a message, cut where it is long."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = type(value).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def field(values: Mapping[str, Any], name: str, check: Callable[[Any], Value]) -> Value:
    """The value of a field, which has to be there, checked."""
    if name not in values:
        raise ValueError(f"{name} is missing")
    try:
        return check(values[name])
    except ValueError as error:
        raise ValueError(f"{name} is {error}") from error


def check_fields(value: Any, wanted: Mapping[str, Any]) -> dict[str, Any]:
    """An object of which each wanted field is checked, and others are left as they are.

    Args:
        value: what should be the object.
        wanted: by name a check, the wanted fields of an object, or a list of these for a list of objects. A name
            that ends in `?` need not be there, and `*` stands for all that are.
    """
    values = mapping(value)
    for name, check in wanted.items():
        names = list(values) if name == "*" else [name.removesuffix("?")]
        for each in names:
            if name.endswith("?") and each not in values:
                continue
            if isinstance(check, Mapping):
                check_fields(field(values, each, mapping), check)
            elif isinstance(check, list):
                for inner in field(values, each, objects):
                    check_fields(inner, check[0])
            else:
                field(values, each, check)
    return values


def optional(values: Mapping[str, Any], name: str, check: Callable[[Any], Value]) -> Value | None:
    """As `field`, or None where it is missing."""
    return field(values, name, check) if name in values else None


def or_none(check: Callable[[Any], Value]) -> Callable[[Any], Value | None]:
    """A check that lets null pass."""
    return lambda value: None if value is None else check(value)


def no_others(values: Mapping[str, Any], known: tuple[str, ...]) -> None:
    """Refuse by ValueError fields of other names."""
    for name in values:
        if name not in known:
            raise ValueError(f"{shown(name)} is unknown; {did_you_mean(name[:MOST_LETTERS], known)}")


def whole(low: int, high: int) -> Callable[[Any], int]:
    """A check for whole numbers from `low` to `high`."""

    def check(value: Any) -> int:
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"{shown(value)}, expected a whole number from {low} to {high}")
        return value

    return check


def number(low: float = -math.inf) -> Callable[[Any], float]:
    """A check for finite numbers above `low`."""

    def check(value: Any) -> float:
        if type(value) not in (int, float) or not math.isfinite(value) or not value > low:
            raise ValueError(f"{shown(value)}, expected a number" + (f" above {low:g}" if low > -math.inf else ""))
        return float(value)

    return check


def several(count: int, check: Callable[[Any], Value]) -> Callable[[Any], tuple[Value, ...]]:
    """A check for lists of `count` values."""

    def checked(value: Any) -> tuple[Value, ...]:
        if not isinstance(value, (list, tuple)) or len(value) != count:
            raise ValueError(f"{shown(value)}, expected a list of {count} values")
        return tuple(check(each) for each in value)

    return checked


def truth(value: Any) -> bool:
    """A check for true and false."""
    if type(value) is not bool:
        raise ValueError(f"{shown(value)}, expected true or false")
    return value


def name(value: Any) -> str:
    """A check for texts that can be shown: not empty, one line, without control characters."""
    if not isinstance(value, str) or not value.isprintable() or not value.strip() or len(value) > MOST_LETTERS:
        raise ValueError(f"{shown(value)}, expected a name of 1 to {MOST_LETTERS} printable characters")
    return value


def any_text(value: Any) -> str:
    """A check for texts of any length."""
    if not isinstance(value, str):
        raise ValueError(f"{shown(value)}, expected a text")
    return value


def printable(text: str) -> str:
    """A text that passes `name`: cut, and with `?` for what cannot be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:MOST_LETTERS].strip() or "?"


def one_of(*known: object) -> Callable[[Any], Any]:
    """A check for one of a few values."""

    def check(value: Any) -> Any:
        if not any(value == each and type(value) is type(each) for each in known):
            raise ValueError(f"{shown(value)}, expected {' or '.join(map(str, known))}")
        return value

    return check


def sha256(value: Any) -> str:
    """A check for hexadecimal SHA-256 sums."""
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{64}", value):
        raise ValueError(f"{shown(value)}, expected the 64 digits of a SHA-256")
    return value


def mapping(value: Any) -> dict[str, Any]:
    """A check for objects."""
    if not isinstance(value, dict) or not all(isinstance(each, str) for each in value):
        raise ValueError(f"{shown(value)}, expected an object")
    return value


def objects(value: Any) -> list[dict[str, Any]]:
    """A check for lists of objects."""
    if not isinstance(value, list):
        raise ValueError(f"{shown(value)}, expected a list")
    return [mapping(each) for each in value]
