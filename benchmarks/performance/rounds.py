"""Variants are measured interleaved, round by round, so that other work on the machine falls on all of them alike."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping


def interleaved(variants: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Values of each variant, one a round; every other round goes backwards."""
    values: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(rounds):
        for name in list(variants)[:: -1 if number % 2 else 1]:
            values[name].append(variants[name]())
    return values


def ratio(values: Mapping[str, list[float]], name: str, base: str) -> float:
    """Median over the rounds of one variant's value over another's."""
    return round(statistics.median(a / b for a, b in zip(values[name], values[base], strict=True)), 3)
