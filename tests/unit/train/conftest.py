"""Whole runs in a fraction of their time."""

import pytest

from clst_train import training
from clst_train.engine.logger import Logbook


@pytest.fixture(scope="module")
def no_pictures():
    """Runs draw neither curves nor examples, which takes longer than a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_examples", lambda *arguments: None)
        patch.setattr(Logbook, "draw", lambda self: None)
        yield
