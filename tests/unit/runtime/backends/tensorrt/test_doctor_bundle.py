"""Acceptance and benchmark of a bundle, on a machine with the stand-ins for TensorRT and the GPU."""

import dataclasses
import json

import pytest
from click.testing import CliRunner

from clst_export.tensorrt.bundle import write_bundle
from clst_runtime.backends.cuda.options import GpuOptions
from clst_runtime.backends.tensorrt.build.options import MIN_AGREEMENT
from clst_runtime.backends.tensorrt.bundle.device_engine import open_bundle
from clst_runtime.cli.bench import main as bench
from clst_runtime.cli.doctor import main as doctor
from clst_runtime.errors import ConfigError
from clst_runtime.evaluation.acceptance import run as acceptance
from clst_runtime.evaluation.acceptance.parity import agreement_needed
from clst_runtime.evaluation.acceptance.run import accept
from clst_runtime.evaluation.latency.comparison import Candidate, Level, candidates_for, engine_only, host_to_host
from clst_runtime.evaluation.latency.host_to_host import Effort
from tests.conftest import rgb_manifest, write_rgb_model
from tests.unit.runtime.backends.tensorrt.conftest import HERE
from tests.unit.runtime.evaluation.test_acceptance import plan, statuses

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
    found = accept(plan(bundle))
    assert statuses(found)["opening"] == "holds"
    parity = next(step for step in found.steps if step.name == "parity")
    assert parity.values["bundle"]["agreement"] == 1.0
    assert parity.values["bundle"]["needed"] == MIN_AGREEMENT["fp16"]
    assert found.exit_code == 0


def test_an_engine_that_got_worse_after_its_build_is_found(machine, bundle):
    accept(plan(bundle))
    machine.does.wrong_share = 0.25
    found = accept(plan(bundle))
    assert statuses(found)["parity"] == "failed"
    assert statuses(found)["live run"] == "holds"
    assert found.exit_code == 6


def test_an_engine_from_before_an_update_is_accepted_if_it_holds_and_the_report_says_why_it_is_used(machine, bundle):
    open_bundle(bundle).close()
    machine.has_driver("Jetson Linux 36.4.4")
    machine.does.builds = False
    found = accept(plan(bundle))
    opening, parity = (next(step for step in found.steps if step.name == name) for name in ("opening", "parity"))
    assert (
        f"FP16 cannot be used on this GPU ({bundle / 'model.onnx'}: TensorRT 10.3.0 could not build it" in opening.text
    )
    assert f"; model-{HERE}.engine is used (remove proof-" in opening.text
    assert opening.values["engine"]["driver"] == "Jetson Linux 36.4.4"
    assert parity.values["bundle"]["agreement"] == 1.0
    assert found.exit_code == 0


def test_a_build_without_a_gpu_is_exit_code_5(machine, bundle):
    machine.has_no_gpu()
    found = accept(plan(bundle))
    assert statuses(found)["opening"] == "failed"
    assert found.exit_code == 5


def test_a_damaged_bundle_is_not_built(machine, bundle):
    with (bundle / "model.onnx").open("ab") as stream:
        stream.write(b"x")
    found = accept(plan(bundle))
    assert statuses(found)["file"] == "failed"
    assert not list(bundle.glob("*.engine"))


def test_an_engine_asks_for_the_agreement_of_its_build(machine, bundle):
    with open_bundle(bundle) as backend:
        assert agreement_needed(backend) == MIN_AGREEMENT["fp16"]


def test_bundle_and_onnx_file_side_by_side_and_the_engine_by_the_gpus_clock(machine, bundle):
    candidates = [Candidate.parse(str(bundle)), Candidate.parse(str(bundle / "model.onnx"))]
    scores = host_to_host(candidates, None, QUICK, threads=1)
    assert [len(score.samples_ns) for score in scores] == [4, 4]
    assert scores[0].details["output_sha256"] == scores[1].details["output_sha256"]
    alone = engine_only(candidates, None, QUICK, threads=1)
    assert {score.level for score in alone} == {Level.ENGINE_ONLY}
    assert len(set(alone[0].samples_ns)) == 1  # the stand-in's clock is the same each time
    assert all(score.samples_ns for score in alone)


def test_engines_are_timed_as_the_vehicle_will_run_them(machine, bundle):
    onnx = str(bundle / "model.onnx")
    gpu = GpuOptions(io="mapped", graph=True)
    candidates = candidates_for([str(bundle), onnx], gpu)
    assert [each.gpu for each in candidates] == [gpu, GpuOptions()]
    scores = host_to_host(candidates, None, QUICK, threads=1)
    assert scores[0].backend.endswith("mapped I/O by cuda-python, CUDA graph")
    assert scores[0].note == ""
    alone = engine_only(candidates, None, QUICK, threads=1)
    assert alone[0].backend.endswith("mapped I/O by cuda-python")
    assert [score.note for score in alone] == ["without the CUDA graph, whose stages cannot be timed", ""]
    assert all(score.samples_ns for score in alone)


def test_a_graph_that_was_dropped_is_said_beside_the_latency(machine, bundle):
    machine.does.graph_fails = "cuGraphInstantiate failed"
    (score,) = host_to_host(candidates_for([str(bundle)], GpuOptions(graph=True)), None, QUICK, threads=1)
    assert "runs without a CUDA graph: cuGraphInstantiate failed" in score.note


def test_options_of_engines_are_refused_where_no_model_is_one(bundle):
    with pytest.raises(ConfigError, match="no model is one; leave them out"):
        candidates_for([str(bundle / "model.onnx"), f"{bundle}@ort-cpu"], GpuOptions(io="copy"))
    assert candidates_for([f"{bundle}@ort-cpu"], GpuOptions())[0].gpu == GpuOptions()


def test_the_acceptance_opens_the_model_as_it_was_told(machine, bundle):
    told = dataclasses.replace(plan(bundle), gpu=GpuOptions(io="mapped"))
    opening = next(step for step in accept(told).steps if step.name == "opening")
    assert "mapped I/O" in opening.text
    onnx = dataclasses.replace(plan(bundle / "model.onnx"), gpu=GpuOptions(io="mapped"))
    opening = next(step for step in accept(onnx).steps if step.name == "opening")
    assert (opening.status.value, "io mapped means nothing" in opening.text) == ("failed", True)


def test_the_commands_pass_the_options_on(machine, bundle, tmp_path):
    gpu = ("--io", "mapped", "--cuda", "cuda-python", "--cuda-graph")
    done = CliRunner().invoke(bench, [str(bundle), "--runs", "2", "--warm-up", "0", "--json", *gpu])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["results"][0]["backend"].endswith("mapped I/O by cuda-python, CUDA graph")
    verify = ("--verify", str(bundle), "--seconds", "0.5", "--report", str(tmp_path / "report.md"))
    done = CliRunner().invoke(doctor, [*verify, *gpu])
    assert "CUDA graph" in (tmp_path / "report.md").read_text(), done.output
    done = CliRunner().invoke(doctor, [*verify, "--backend", "ort-cpu"])
    assert "CPU" in (tmp_path / "report.md").read_text()
    for arguments, why in ((gpu, "--io, --cuda, --cuda-graph need --verify"), (("--backend", "x"), "--backend need")):
        done = CliRunner().invoke(doctor, list(arguments))
        assert (done.exit_code, why in done.output) == (2, True), done.output
    done = CliRunner().invoke(bench, [str(bundle), "--io", "telepathy"])
    assert (done.exit_code, "I/O mode 'telepathy' is not known" in done.output) == (3, True)
