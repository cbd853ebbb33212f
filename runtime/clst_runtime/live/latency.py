"""Latencies, summed up the same way everywhere."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

UNSTEADY = 0.025


def summarise_ms(samples_ns: Sequence[int]) -> dict[str, float]:
    """min, mean, median, p90, p95, p99, max in milliseconds and the coefficient of variation; empty for no samples."""
    if not samples_ns:
        return {}
    values = np.asarray(samples_ns, np.float64) / 1e6
    p50, p90, p95, p99 = np.percentile(values, [50, 90, 95, 99])
    mean = float(values.mean())
    return {
        "min": float(values.min()),
        "mean": mean,
        "median": float(p50),
        "p90": float(p90),
        "p95": float(p95),
        "p99": float(p99),
        "max": float(values.max()),
        "cov": float(values.std() / mean) if mean > 0 else 0.0,
    }


class LatencyHistogram:
    """Counts of latencies in buckets that grow by one per cent: percentiles of any number of them in fixed memory.

    Minimum, mean, maximum and spread are exact, percentiles within 0.5 %, from 1 µs to 1,000 s.
    """

    GROWTH = 1.01
    SHORTEST_NS = 1_000
    BUCKETS = 2084  # 1.01^2083 · 1 µs is more than 1,000 s

    def __init__(self) -> None:
        self._counts = np.zeros(self.BUCKETS, np.int64)
        self.count = 0
        self._sum = self._squares = 0.0
        self._least, self._most = math.inf, 0

    def add(self, nanoseconds: int) -> None:
        place = math.log(max(nanoseconds, 1) / self.SHORTEST_NS) / math.log(self.GROWTH)
        self._counts[min(max(int(place), 0), self.BUCKETS - 1)] += 1
        self.count += 1
        self._sum += nanoseconds
        self._squares += nanoseconds * nanoseconds
        self._least, self._most = min(self._least, nanoseconds), max(self._most, nanoseconds)

    def percentile_ns(self, share: float) -> float:
        """The latency below which `share` (0 … 1) of them lie; the middle of its bucket, within what occurred."""
        reached = np.searchsorted(np.cumsum(self._counts), max(share * self.count, 1))
        middle = self.SHORTEST_NS * math.exp(math.log(self.GROWTH) * (int(reached) + 0.5))
        return min(max(middle, self._least), float(self._most))

    def summary_ms(self) -> dict[str, float]:
        """As `summarise_ms`; empty for none."""
        if self.count == 0:
            return {}
        mean = self._sum / self.count
        spread = math.sqrt(max(self._squares / self.count - mean * mean, 0.0))
        shares = {"median": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
        return {
            "min": self._least / 1e6,
            "mean": mean / 1e6,
            **{name: self.percentile_ns(share) / 1e6 for name, share in shares.items()},
            "max": self._most / 1e6,
            "cov": spread / mean if mean > 0 else 0.0,
        }
