"""Runs that end as if the power had gone off."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from clst_train.models.checkpoint import Checkpoint
from clst_train.stages import adaptation_state
from clst_train.stages import source as source_stage


class PowerCut(Exception):
    """Nothing that the run itself would catch."""


@contextmanager
def broken_off_after_two_steps(stage: str = "adapted") -> Iterator[None]:
    """The run inside must end right after the checkpoint of the second step of a stage, `source` or `adapted`."""
    save = source_stage.save_checkpoint

    def stop(path: Path, checkpoint: Checkpoint) -> None:
        save(path, checkpoint)
        if path.name == "resume.pt" and (checkpoint.stage, checkpoint.iteration) == (stage, 2):
            raise PowerCut

    with pytest.MonkeyPatch.context() as patch, pytest.raises(PowerCut):
        for module in (source_stage, adaptation_state):
            patch.setattr(module, "save_checkpoint", stop)
        yield
