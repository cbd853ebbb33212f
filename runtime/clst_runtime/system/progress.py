"""Whether progress is shown: bars and lines that say how far something is."""

from __future__ import annotations

import logging

PROGRESS = logging.getLogger("clst_runtime.progress")
"""Takes progress as lines; switched off by its level, as `-q` does. Off unless logging is set up for INFO."""


def is_shown() -> bool:
    """Whether anybody wants to see it."""
    return PROGRESS.isEnabledFor(logging.INFO)
