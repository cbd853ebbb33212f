"""Whole runs in a fraction of their time."""

import pytest

from clst_train import training
from clst_train.engine import preflight
from clst_train.engine.logger import Logbook
from clst_train.stages import trial


@pytest.fixture(scope="module")
def no_pictures():
    """Runs draw neither curves nor examples and time no pass ahead, which takes longer than a few steps."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "draw_examples", lambda *arguments: None)
        patch.setattr(Logbook, "draw", lambda self: None)
        patch.setattr(preflight, "_timed", lambda work, device: 1.0)
        yield


@pytest.fixture(scope="module")
def no_export():
    """A network that is not built in is not exported before a run, as where clst-export is not installed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "entry_points", lambda **group: [])
        yield
