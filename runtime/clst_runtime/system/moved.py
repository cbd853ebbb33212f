"""Old import paths: until version 0.2 an error names the new one; then this module and `moved.txt` go."""

from __future__ import annotations

import sys
from pathlib import Path


class Moved:
    """A finder of modules that is asked after all others, and finds nothing."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> None:
        """Raises: ModuleNotFoundError: a module of ours has had this name, and which it has now."""
        if name.startswith(("clst_runtime.", "clst_train.", "clst_export.")):
            table = dict(line.split() for line in Path(__file__).with_suffix(".txt").read_text("utf-8").splitlines())
            if name in table:
                raise ModuleNotFoundError(f"{name} is now {table[name]}")


sys.meta_path.append(Moved)
