"""Numbers that people write: in options, settings and files. None may be NaN, infinite, or too large to count with."""

from __future__ import annotations

import math
import os
from typing import Any

import click

from clst_runtime.errors import ConfigError

LARGEST_INTEGER = 2**63 - 1
LARGEST = 1e9
"""Of an option: more seconds, milliseconds or points are a slip of the finger, and overflow what is made of them."""
LARGEST_COUNT = 2**31 - 1
"""Of an option that counts; what libraries take."""
LARGEST_SIDE = 16384
"""Rows or columns of an image."""
MOST_THREADS = 1024
"""Of a setting, which another machine may use."""


def is_usable(value: float) -> bool:
    """Whether a number is finite, and an integer fits into 64 bits."""
    return -LARGEST_INTEGER <= value <= LARGEST_INTEGER if isinstance(value, int) else math.isfinite(value)


class Real(click.FloatRange):
    """An option's finite number, at most `LARGEST` either way."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not is_usable(number) or abs(number) > LARGEST:
            self.fail(f"{value} is not a finite number of at most {LARGEST:g}.", param, ctx)
        return number


class Whole(click.IntRange):
    """An option's integer, at most `LARGEST_COUNT` either way unless other bounds are given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if self.max is None and abs(number) > LARGEST_COUNT:
            self.fail(f"{value} is not in the range up to {LARGEST_COUNT}.", param, ctx)
        return number


class Threads(Whole):
    """An option's number of CPU threads, at most one for each core: more wait for one another for minutes."""

    def __init__(self) -> None:
        super().__init__(1)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number, cores = super().convert(value, param, ctx), cores_here()
        if number > cores:
            self.fail(f"{value} threads, but this machine has {cores} cores; give at most {cores}.", param, ctx)
        return number


SEED = Whole(0, LARGEST_INTEGER)
THREADS = Threads()


def finite_or_none(value: float) -> float | None:
    """A number for JSON, which knows no NaN and no infinity."""
    return float(value) if math.isfinite(value) else None


def cores_here() -> int:
    """Logical cores of this machine."""
    return os.cpu_count() or 1


def parse_size(text: str) -> tuple[int, int]:
    """`360x480` as (360, 480).

    Raises:
        ConfigError: not of that form, or a side is 0 or above `LARGEST_SIDE`.
    """
    rows, found, columns = text.lower().partition("x")
    if not found or not all(side.isascii() and side.isdigit() and len(side) < 9 for side in (rows, columns)):
        raise ConfigError(f"size {text!r}; expected rows x columns, e.g. 360x480")
    if not (0 < int(rows) <= LARGEST_SIDE and 0 < int(columns) <= LARGEST_SIDE):
        raise ConfigError(f"size {text!r}; give rows and columns from 1 to {LARGEST_SIDE}")
    return int(rows), int(columns)
