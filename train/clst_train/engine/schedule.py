"""Values that change with the iteration."""

from __future__ import annotations

PREDICTIONS = 6
"""How often each whole target image is predicted in a run, about, so that no label is older than a sixth of it …"""
SHORTEST_INTERVAL, LONGEST_INTERVAL = 3, 8
"""… but in every third step at most, which a step's cost allows, and in every eighth at least."""
WARM_UP = 0.1
"""Fraction of the steps over which the weight of the target's losses rises from 0."""


def learning_rate_factor(iteration: int, iterations: int, *, warm_up: float = 0.05, power: float = 0.9) -> float:
    """Factor on the peak learning rate: linear warm-up over a fraction of the steps, then polynomial decay to 0."""
    warm = max(1, round(warm_up * iterations))
    if iteration < warm:
        return (iteration + 1) / warm
    return float((1.0 - (iteration - warm) / max(1, iterations - warm)) ** power)


def times_shown(iterations: int, batch: int, images: int) -> float:
    """How often a run shows each of `images` target images, `batch` in a step and none twice in it."""
    return iterations * min(batch, images) / images


def ensemble_interval(shown: float) -> int:
    """In every how many steps whole images are predicted, when the run shows each so often."""
    return min(max(SHORTEST_INTERVAL, round(shown / PREDICTIONS)), LONGEST_INTERVAL)


def steps_before_labels(iterations: int, fraction: float) -> int:
    """How many of a run's steps come before self-training."""
    return round(fraction * iterations)


def ramp(iteration: int, iterations: int, fraction: float) -> float:
    """Rises linearly from 0 to 1 over the given fraction of the steps."""
    length = fraction * iterations
    return 1.0 if length <= 0 else min(1.0, iteration / length)
