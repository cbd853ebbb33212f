"""Randomness as a parameter: one seed, from which every stage takes its own."""

from __future__ import annotations

import numpy as np
import torch


def seed_everything(seed: int) -> None:
    """Seed PyTorch's and NumPy's global generators, which only initialise weights here."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
