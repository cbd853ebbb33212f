"""Acceptance and benchmark of a bundle, on a machine with the stand-ins for TensorRT and the GPU."""

import pytest
from tests.conftest import rgb_manifest, write_rgb_model
from tests.runtime.test_doctor_verify import plan, statuses

from clst_export.bundle import write_bundle
from clst_runtime import acceptance
from clst_runtime.acceptance import accept
from clst_runtime.acceptance_parity import agreement_needed
from clst_runtime.benchmark import Effort
from clst_runtime.contest import Contestant, Level, engine_only, host_to_host
from clst_runtime.engines.bundle import open_bundle
from clst_runtime.engines.options import MIN_AGREEMENT

QUICK = Effort(runs=4, seconds=5.0, warm_up_runs=1, warm_up_ms=0.0)


@pytest.fixture
def bundle(tmp_path, frames):
    model = write_rgb_model(tmp_path / "m.onnx", manifest=rgb_manifest(precision="fp16").to_json())
    write_bundle(model, tmp_path / "front", frames)
    return tmp_path / "front"


@pytest.fixture(autouse=True)
def no_examination(monkeypatch):
    monkeypatch.setattr(acceptance, "examine", list)


def test_a_bundle_is_built_compared_and_driven(machine, bundle):
    found = accept(plan(bundle), tell=lambda _: None)
    assert statuses(found)["opening"] == "holds"
    parity = next(step for step in found.steps if step.name == "parity")
    assert parity.values["bundle"]["agreement"] == 1.0
    assert parity.values["bundle"]["needed"] == MIN_AGREEMENT["fp16"]
    assert found.exit_code == 0


def test_an_engine_that_got_worse_after_its_build_is_found(machine, bundle):
    accept(plan(bundle), tell=lambda _: None)
    machine.does.wrong_share = 0.25
    found = accept(plan(bundle), tell=lambda _: None)
    assert statuses(found)["parity"] == "failed"
    assert statuses(found)["live run"] == "holds"
    assert found.exit_code == 6


def test_a_build_without_a_gpu_is_exit_code_5(machine, bundle):
    machine.has_no_gpu()
    found = accept(plan(bundle), tell=lambda _: None)
    assert statuses(found)["opening"] == "failed"
    assert found.exit_code == 5


def test_a_damaged_bundle_is_not_built(machine, bundle):
    with (bundle / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    found = accept(plan(bundle), tell=lambda _: None)
    assert statuses(found)["file"] == "failed"
    assert not list(bundle.glob("*.engine"))


def test_an_engine_asks_for_the_agreement_of_its_build(machine, bundle):
    with open_bundle(bundle) as backend:
        assert agreement_needed(backend) == MIN_AGREEMENT["fp16"]


def test_bundle_and_onnx_file_side_by_side_and_the_engine_by_the_gpus_clock(machine, bundle):
    contestants = [Contestant.parse(str(bundle)), Contestant.parse(str(bundle / "model.onnx"))]
    scores = host_to_host(contestants, None, QUICK, threads=1)
    assert [len(score.samples_ns) for score in scores] == [4, 4]
    assert scores[0].details["output_sha256"] == scores[1].details["output_sha256"]
    alone = engine_only(contestants, None, QUICK, threads=1)
    assert {score.level for score in alone} == {Level.ENGINE_ONLY}
    assert len(set(alone[0].samples_ns)) == 1  # the stand-in's clock is the same each time
    assert all(score.samples_ns for score in alone)
