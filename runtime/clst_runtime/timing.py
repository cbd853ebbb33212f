"""Latencies, summed up the same way everywhere."""

from __future__ import annotations

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
