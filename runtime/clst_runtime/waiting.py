"""How a process's threads wait for one another, chosen before PyTorch is imported."""

from __future__ import annotations

import os

OWN_WISHES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively() -> None:
    """OpenMP's threads sleep while they wait; who has chosen another way in the environment keeps it.

    By themselves they spin, each on a core of its own. When another program takes one of these cores, the others burn
    theirs at every barrier until the one that it has stopped comes round again, thousands of times in a step.
    OpenMP reads this once, when its library is loaded.
    https://gcc.gnu.org/onlinedocs/libgomp/OMP_005fWAIT_005fPOLICY.html
    """
    if not any(name in os.environ for name in OWN_WISHES):
        os.environ["OMP_WAIT_POLICY"] = "passive"
