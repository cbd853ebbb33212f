"""Values that change with the iteration."""

from __future__ import annotations


def learning_rate_factor(iteration: int, iterations: int, *, warm_up: float = 0.05, power: float = 0.9) -> float:
    """Factor on the peak learning rate: linear warm-up over a fraction of the steps, then polynomial decay to 0."""
    warm = max(1, round(warm_up * iterations))
    if iteration < warm:
        return (iteration + 1) / warm
    return float((1.0 - (iteration - warm) / max(1, iterations - warm)) ** power)


def ramp(iteration: int, iterations: int, fraction: float) -> float:
    """Rises linearly from 0 to 1 over the given fraction of the steps."""
    length = fraction * iterations
    return 1.0 if length <= 0 else min(1.0, iteration / length)
