"""Where this program keeps what other programs built or compiled for it, and how long."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

KEPT = 8
"""Folders of one kind that are kept; the ones that were used longest ago are removed."""


def cache_root(kind: str) -> Path:
    """Where caches of one kind lie: below what systemd gives (`CacheDirectory=`), else in the user's cache folder."""
    given = os.environ.get("CACHE_DIRECTORY", "").partition(":")[0]
    if given:
        return Path(given) / kind
    users = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))  # expands or leaves it
    if not users.is_absolute():  # a service without a home
        users = Path("/var/cache")
    return users / "clst" / kind


def use_folder(folder: Path) -> bool:
    """Make a folder below `cache_root` where there is none, and find out whether files can be written into it.

    Returns:
        Whether it is new.

    Raises:
        OSError: nothing can be written there.
    """
    is_new = not folder.is_dir()
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".probe"
    probe.write_bytes(b"")
    probe.unlink(missing_ok=True)  # another program may do the same at this moment, and remove it
    os.utime(folder)
    for old in sorted(folder.parent.iterdir(), key=_last_used)[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)
    return is_new


def _last_used(folder: Path) -> float:
    """Seconds since 1970; 0 where another program has removed it since it was listed."""
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0
