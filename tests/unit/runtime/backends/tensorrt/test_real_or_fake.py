"""The whole way once more, by the same test on the fake and, where there is one, on a real GPU (marker gpu)."""

import time

import numpy as np
import pytest

from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends import open_model
from clst_runtime.backends.tensorrt.build.engine import check_can_build
from clst_runtime.backends.tensorrt.bundle.device_engine import build_bundle
from clst_runtime.backends.tensorrt.bundle.proof import read_proof
from clst_runtime.backends.tensorrt.sidecar import read_engine, sidecar_path
from clst_runtime.errors import MissingDependency, ModelFileError
from clst_runtime.evaluation.latency.host_to_host import Effort, measure_side_by_side
from tests.conftest import rgb_manifest, write_rgb_model


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.gpu)])
def gpu(request):
    """A GPU with TensorRT: the fake one, or this machine's."""
    if request.param == "fake":
        request.getfixturevalue("machine")
    else:
        try:
            check_can_build()
        except MissingDependency as error:
            pytest.skip(error.message.partition("; ")[0])


def test_a_bundle_becomes_an_engine_that_is_exact_kept_and_guarded(gpu, tmp_path, frames):
    write_bundle(write_rgb_model(tmp_path / "rgb.onnx"), tmp_path / "bundle", frames)
    engine = build_bundle(tmp_path / "bundle")
    facts = read_engine(engine)[1].engine
    assert facts["agreement"]["differing_pixels"] == 0
    assert facts["summary"]["layers"] > 0
    assert set(facts["summary"]["io_tensors"]) == {"frame", "classes"}
    assert min(facts["agreement"]["device_ms"].values()) >= 0.0
    started = time.monotonic()
    with open_model(tmp_path / "bundle") as backend:  # kept, not built again
        assert time.monotonic() - started < 10.0
        held = [backend.predict(frames[index % 3]).classes for index in range(9)]
        effort = Effort(runs=20, seconds=5.0, warm_up_runs=3)
        assert measure_side_by_side([backend], frames, effort)[0].summary_ms()["median"] > 0.0
    for index, classes in enumerate(held):
        assert np.array_equal(classes, frames[index % 3].argmax(axis=2))
    text = sidecar_path(engine).read_text().replace(facts["tensorrt"], "10.99.0")
    sidecar_path(engine).write_text(text)
    with pytest.raises(ModelFileError, match="built by TensorRT 10.99.0"):
        open_model(engine)


def test_two_engines_are_timed_in_turns_and_one_of_them_is_used(gpu, tmp_path, frames):
    """The same graph under both names, so that nothing but noise tells them apart on a real GPU."""
    files = [
        write_rgb_model(tmp_path / f"{precision}.onnx", manifest=rgb_manifest(precision=precision).to_json())
        for precision in ("int8", "fp16")
    ]
    write_bundle(files[0], tmp_path / "bundle", frames, baseline=files[1])
    engine = build_bundle(tmp_path / "bundle")
    proof = read_proof(next((tmp_path / "bundle").glob("proof-*.json")))
    int8, fp16 = proof.engines
    assert 0.1 < int8.compute_ms / fp16.compute_ms < 10.0
    assert (engine.name, int8.agreement, fp16.agreement) == (proof.used.engine, 1.0, 1.0)
    started = time.monotonic()
    with open_model(tmp_path / "bundle") as backend:  # neither built nor timed again
        assert time.monotonic() - started < 10.0
        assert np.array_equal(backend.predict(frames[0]).classes, frames[0].argmax(axis=2))
