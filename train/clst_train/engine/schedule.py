"""Values that change with the iteration."""

from __future__ import annotations

PREDICTIONS = 8
"""An image that is shown so often in a run is predicted so often at least, for its average to be one over time …"""
LONGEST_INTERVAL = 4
"""… and in one pass of so many at least, so that its label does not age."""
WARM_UP = 0.1
"""Fraction of the steps over which the weight of the target's losses rises from 0."""


def learning_rate_factor(iteration: int, iterations: int, *, warm_up: float = 0.05, power: float = 0.9) -> float:
    """Factor on the peak learning rate: linear warm-up over a fraction of the steps, then polynomial decay to 0."""
    warm = max(1, round(warm_up * iterations))
    if iteration < warm:
        return (iteration + 1) / warm
    return float((1.0 - (iteration - warm) / max(1, iterations - warm)) ** power)


def predicts(iteration: int, *, since: int, iterations: int, pass_steps: int) -> bool:
    """Whether a step predicts its whole images for the ensemble, whose first step was `since`.

    All do until a whole pass over the images has been made, then those of every n-th pass.
    """
    current, first = iteration // pass_steps, -(-since // pass_steps)
    interval = max(1, min(LONGEST_INTERVAL, (iterations // pass_steps - first) // PREDICTIONS))
    return current <= first or (current - first) % interval == 0


def steps_before_labels(iterations: int, fraction: float) -> int:
    """How many of a run's steps come before self-training."""
    return round(fraction * iterations)


def ramp(iteration: int, iterations: int, fraction: float) -> float:
    """Rises linearly from 0 to 1 over the given fraction of the steps."""
    length = fraction * iterations
    return 1.0 if length <= 0 else min(1.0, iteration / length)
