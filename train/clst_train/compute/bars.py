"""How progress is shown: a bar on a terminal, a line now and then elsewhere, nothing with `-q`."""

from __future__ import annotations

import sys
from typing import Any

from clst_runtime.system.progress import PROGRESS, is_shown
from clst_train.compute.ranks import ranks


class Lines:
    """Takes what a progress bar draws and logs it as lines."""

    def write(self, text: str) -> None:
        """Log one line; the bar's carriage returns and blanking are dropped."""
        if line := text.replace("\r", "").strip():
            PROGRESS.info(line)

    def flush(self) -> None:
        """Nothing is held back."""


BAR: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 1.0}
PLAIN: dict[str, Any] = {
    "file": Lines(),
    "mininterval": 30.0,
    "maxinterval": 30.0,  # else tqdm's monitor draws a line after ten seconds
    "bar_format": "{desc} {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}",
}


def tqdm_options() -> dict[str, Any]:
    """Arguments of tqdm for where stderr goes now; of several processes the first alone shows it."""
    return {**(BAR if sys.stderr.isatty() else PLAIN), "disable": not (is_shown() and ranks().first)}
