"""One finding, and the guard that keeps a failing check from ending the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any


class State(str, Enum):
    """How a thing is."""

    GOOD = "good"
    NOTE = "note"
    """Works, but there is something to know or to do better."""
    MISSING = "missing"
    CONFLICT = "conflict"
    """There, but in the way of itself."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One checked item."""

    name: str
    state: State
    text: str
    """Version, or what is wrong."""
    hint: str = ""
    """What to do, for this platform; empty where nothing is to be done."""
    needed: bool = False
    """Whether clst-run cannot do without it."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, by the keys that reports have had from the start."""
        keys = {"text": "told", "hint": "cure"}
        return {keys.get(name, name): value for name, value in vars(self).items()}


def look(name: str, examine: Callable[[], Iterable[Finding]], *, needed: bool = False) -> list[Finding]:
    """The findings of one check; an exception in it becomes a finding, too."""
    try:
        return list(examine())
    except Exception as error:  # noqa: BLE001  (one broken package must not hide the findings about the rest)
        text = f"looking at it failed: {type(error).__name__}: {' '.join(str(error).split())[:200]}"
        hint = "please report this line with the output of clst-doctor --json"
        return [Finding(name=name, state=State.CONFLICT, text=text, hint=hint, needed=needed)]
