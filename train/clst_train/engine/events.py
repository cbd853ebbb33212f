"""TensorBoard event files of a run: `tensorboard --logdir RUN/tensorboard`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clst_runtime.errors import MissingDependency
from clst_runtime.system.optional import extra, require


class EventFiles:
    """One TensorBoard run per stage, so that going on with one stage never hides steps of the other."""

    def __init__(self, folder: Path) -> None:
        """Write below `folder`; nothing is made before the first value.

        Raises:
            MissingDependency: the `tensorboard` package is not there.
        """
        check_tensorboard()
        self.folder = folder
        self._writers: dict[str, Any] = {}
        self._purge: dict[str, int] = {}

    def forget_after(self, stage: str, iteration: int) -> None:
        """Hide steps of the stage after `iteration` that an interrupted run has written."""
        if stage in self._writers:
            self._writers.pop(stage).close()
        if (self.folder / stage).is_dir():
            self._purge[stage] = iteration + 1

    def add(self, stage: str, iteration: int, values: Mapping[str, float]) -> None:
        """Write scalars and hand them to the system at once: a killed run keeps what it has logged."""
        if stage not in self._writers:
            writer = require("torch.utils.tensorboard").SummaryWriter
            self._writers[stage] = writer(str(self.folder / stage), purge_step=self._purge.pop(stage, None))
        for name, value in values.items():
            self._writers[stage].add_scalar(name, value, iteration)
        self._writers[stage].flush()


def check_tensorboard() -> None:
    """Find out before a run whether event files can be written.

    Raises:
        MissingDependency: the `tensorboard` package is not there.
    """
    try:
        require("torch.utils.tensorboard")
    except MissingDependency as error:
        raise MissingDependency(
            f"run.tensorboard needs the tensorboard package: pip install {extra('tensorboard')}, or set "
            f"run.tensorboard=false ({error.__cause__})"
        ) from error
