"""The commit of this code: a wheel carries it in a file, a clone is asked for it."""

from __future__ import annotations

from pathlib import Path

from clst_runtime.system.programs import run_program

UNKNOWN = "unknown"
FILE = Path(__file__).with_name("commit.txt")
"""Written into each wheel by `hatch_build.py`; a clone has none."""


def commit() -> str:
    """Twelve digits of the commit, with `-dirty` where files were changed since, or `UNKNOWN`."""
    return FILE.read_text().strip() if FILE.is_file() else commit_of(FILE.parents[3])


def commit_of(clone: Path) -> str:
    """The same of the clone whose top folder is `clone`; `UNKNOWN` if it is no clone, or there is no git."""
    found = run_program(["git", "-C", str(clone), "rev-parse", "--show-toplevel", "--short=12", "HEAD"])
    top, _, digits = (found or "").strip().rpartition("\n")
    if not top or Path(top).resolve() != clone.resolve():  # unpacked inside another project's clone
        return UNKNOWN
    packaged = ["pyproject.toml", "runtime", "train", "export"]
    changed = run_program(["git", "-C", str(clone), "status", "--porcelain", "--", *packaged])
    return digits if changed == "" else f"{digits}-dirty"
