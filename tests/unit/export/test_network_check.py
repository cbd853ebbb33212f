"""What training asks before it begins: whether a network can be exported."""

from importlib.metadata import entry_points

import pytest

from clst_export import network_check
from clst_export.graph import trace
from clst_export.network_check import check_network
from clst_runtime.backends.tensorrt.build import check
from clst_runtime.errors import ModelFileError
from clst_runtime.system.optional import Unimportable
from clst_train.models.wrapped import WrappedNetwork
from clst_train.stages.trial import CHECKS
from tests.support.faulty import ByItsPixels
from tests.support.foreign import Plain


def measured(network):
    segmenter = WrappedNetwork(network, 3, name="mine")
    segmenter.measure((32, 48))
    return segmenter


def test_training_finds_it():
    (entry,) = entry_points(group=CHECKS, name="export")
    assert entry.load() is check_network


@pytest.mark.slow  # the first trace of a process imports PyTorch's exporter
def test_a_network_that_can_be_exported_passes_unless_tensorrt_refuses_it(monkeypatch):
    answers = [{"builder": "TensorRT for RTX", "not_checked": "it is not here"},
               {"builder": "TensorRT for RTX", "version": "1", "refused": "does not read Conv"}]  # fmt: skip
    monkeypatch.setattr(check, "check_build", lambda path: answers.pop(0))
    segmenter, traced = measured(Plain(3)), []
    real = trace.trace
    monkeypatch.setattr(trace, "trace", lambda *given, **options: traced.append(real(*given, **options)) or traced[0])
    check_network(segmenter, (32, 48))
    monkeypatch.setattr(trace, "trace", lambda *given, **options: traced[0])
    with pytest.raises(ModelFileError, match="TensorRT for RTX 1 does not read Conv"):
        check_network(segmenter, (32, 48))


def test_a_graph_by_pixel_values_is_refused_with_its_line():
    with pytest.raises(
        ModelFileError, match=r"`return logits if images.mean\(\) > 0 .*faulty.py, line \d+\) depends on"
    ):
        check_network(measured(ByItsPixels(3)), (32, 48))


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(network_check, "PACKAGES", ("torch", "no_such_package"))
    with pytest.raises(Unimportable, match="no_such_package"):
        check_network(measured(Plain(3)), (32, 48))
