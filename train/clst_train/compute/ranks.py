"""Which process this is, of how many that `torchrun` started; known without PyTorch."""

from __future__ import annotations

import os
from dataclasses import dataclass

from clst_runtime.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """Which process this is, of how many."""

    rank: int = 0
    """0 … count − 1; 0 writes files."""
    count: int = 1
    """R."""
    local: int = 0
    """Number of this process on its machine, and so of its GPU."""

    @property
    def first(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    def share(self, images: int) -> range:
        """The positions of this process's own images, of so many."""
        return range(self.rank, images, self.count)

    def part(self, batch: int, *, where: str) -> slice:
        """This rank's places of a batch.

        Raises:
            ConfigError: the batch cannot be split evenly; `where` names its setting.
        """
        if batch % self.count:
            raise ConfigError(f"{where} = {batch} cannot be split over {self.count} processes; give a multiple of it")
        size = batch // self.count
        return slice(self.rank * size, (self.rank + 1) * size)


ONE_PROCESS = Ranks()
"""Nothing is split."""


def ranks() -> Ranks:
    """This process by the environment variables of `torchrun`."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    if count == 1:
        return ONE_PROCESS
    return Ranks(rank=int(os.environ["RANK"]), count=count, local=int(os.environ.get("LOCAL_RANK", "0")))
