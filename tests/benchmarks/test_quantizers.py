"""Which parts quantizers leave alone, and what is reported of a graph and of a result."""

import resource
import signal
import time

import pytest
from onnx import TensorProto

from benchmarks.export.one_quantizer import limit_cpu
from benchmarks.export.quantizers import environment, incompatibility, parts, show
from clst_runtime.errors import MissingDependency
from tests.support.graphs import IDENTITY, Builder, node_of, residual


def test_a_careful_user_leaves_the_normalisation_the_outer_convolutions_and_the_tail_alone():
    b = Builder()
    first = b.add("Relu", [b.conv(b.start(), "first", IDENTITY)], "first_relu")
    middle = b.add("Relu", [b.conv(first, "middle", IDENTITY)], "middle_relu")
    found = parts(b.finish(b.conv(middle, "last", IDENTITY)))
    assert found["first"] == ["pixels_node", "real_node", "first_node", "first_relu_node"]
    assert found["last"] == ["last_node"]
    assert found["tail"] == ["large_node", "winner_node", "winner_real_node", "classes_node"]


def test_a_compatible_graph_has_no_message_and_an_incompatible_one_names_the_node():
    model = residual()
    assert incompatibility(model) is None
    next(entry for entry in node_of(model, "winner_real").attribute).i = TensorProto.INT32
    assert "classes" in (incompatibility(model) or "")


def test_the_table_says_what_was_lost_and_by_which_method():
    claim = {"agreement": 0.9766, "reference_miou": 0.325, "miou": 0.32}
    row = {
        "flavour": "int8",
        "name": "ours",
        "method": "max",
        "methods": {"max": {"cpu_seconds": 7.6, "grew_mib": 99.9}},
    }
    row |= {
        "claim": claim,
        "bytes": 3 << 20,
        "hygiene": None,
        "placement": ["a", "b"],
        "rtx": {"layers": {"CAST": 600, "RESIZE": 53}},
    }
    failed = {"flavour": "int8", "name": "another", "methods": {"max": {"failed": "ValueError"}}}
    lines = show({"networks": [{"name": "camvid", "network": "slim", "rows": [row, failed]}]})
    assert lines[2:-1] == [
        "| slim, camvid | int8 | ours (max) | 97.66 % | 32.00 | 0.50 | 3.0 | 8 | 100 |  | 2 | 653 |  |"
    ]


def test_a_python_without_modelopt_is_one_line(tmp_path):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho Traceback >&2\necho 'PackageNotFoundError: nvidia-modelopt' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(MissingDependency, match=r"^--modelopt .*: PackageNotFoundError: nvidia-modelopt; install"):
        environment(python)


def test_a_quantizer_that_takes_too_long_ends_with_a_line_that_says_so():
    before = resource.getrlimit(resource.RLIMIT_CPU), signal.getsignal(signal.SIGXCPU)
    used = time.process_time()
    try:
        limit_cpu(1000)
        assert 1000 <= resource.getrlimit(resource.RLIMIT_CPU)[0] - used < 1002
        with pytest.raises(SystemExit, match="stopped after 1000 s of CPU time"):
            signal.raise_signal(signal.SIGXCPU)
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, before[0])
        signal.signal(signal.SIGXCPU, before[1])
