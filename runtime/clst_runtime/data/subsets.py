"""Some items of a sequence, by their positions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar, overload

Item = TypeVar("Item")


def evenly_spread(total: int, most: int | None = None, *, centred: bool = False) -> list[int]:
    """At most `most` of the positions 0 … total−1, ascending, one from each of so many equal parts; None = all.

    Args:
        centred: take the middle of each part, not its first position.
    """
    count = total if most is None else min(total, most)
    return [(2 * part + centred) * total // (2 * count) for part in range(count)]


@dataclass(frozen=True)
class Subset(Sequence[Item], Generic[Item]):
    """Some items of a sequence. Each is read from it when asked for, so large images need not fit in memory."""

    items: Sequence[Item]
    positions: Sequence[int]
    """Which ones, in order."""

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Subset[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | Subset[Item]:
        """One item, or a smaller subset."""
        if isinstance(index, slice):
            return Subset(self.items, self.positions[index])
        return self.items[self.positions[index]]
