"""How progress is shown on stderr: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
from typing import Any

from clst_train.compute.ranks import ranks


class Lines:
    """Takes what a progress bar draws and passes it to stderr as lines of a log file."""

    def write(self, text: str) -> None:
        """Write one line; the bar's carriage returns and blanking are dropped."""
        if line := text.replace("\r", "").strip():
            sys.stderr.write(line + "\n")

    def flush(self) -> None:
        """Flush stderr."""
        sys.stderr.flush()


BAR: dict[str, Any] = {"dynamic_ncols": True, "mininterval": 1.0}
PLAIN: dict[str, Any] = {
    "file": Lines(),
    "mininterval": 30.0,
    "bar_format": "{desc} {n_fmt}/{total_fmt}, {elapsed} gone, {remaining} left{postfix}",
}


def manner() -> dict[str, Any]:
    """Arguments of tqdm for where stderr goes now; of several processes the first alone shows it."""
    return {**(BAR if sys.stderr.isatty() else PLAIN), "disable": not ranks().first}
