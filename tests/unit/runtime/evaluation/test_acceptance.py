"""The acceptance on the device: what holds, what does not, what is skipped, and its one report."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from clst_runtime.backends import open_model
from clst_runtime.errors import BudgetNotHeld, DataError, MissingDependency
from clst_runtime.evaluation.acceptance import run as acceptance
from clst_runtime.evaluation.acceptance.parity import ParityOutcome, compare_with_export
from clst_runtime.evaluation.acceptance.report import markdown_table, read_report, report_text
from clst_runtime.evaluation.acceptance.run import (
    Acceptance,
    Bench,
    Plan,
    Status,
    Step,
    accept,
    check_memory,
    live_failures,
)
from clst_runtime.evaluation.export_digest import take_digest
from clst_runtime.evaluation.latency.host_to_host import Effort
from clst_runtime.imaging.image_files import read_image
from clst_runtime.imaging.media import images_below
from tests.conftest import SIZE_HW, rgb_manifest, write_labelled, write_rgb_model
from tests.support.shell import shell
from tests.unit.runtime.evaluation.test_bench import FakeBackend, tied_model

QUICK = Effort(runs=20, seconds=5.0, warm_up_runs=2, warm_up_ms=0.0)


@pytest.fixture(autouse=True)
def no_examination(monkeypatch):
    """The machine itself is looked at in test_doctor."""
    monkeypatch.setattr(acceptance, "examine", list)


def plan(model, **options):
    return Plan(model=model, seconds=0.6, latency=QUICK, **options)


def statuses(found):
    return {step.name: step.status.value for step in found.steps}


def images(data):
    return [read_image(path) for path in images_below(data / "images")]


def test_a_model_that_says_what_it_said_at_export_is_accepted(tmp_path):
    data = write_labelled(tmp_path / "data")
    model = tied_model(tmp_path / "m.onnx", images(data))
    found = accept(plan(model, data=data))
    assert statuses(found) == {
        "file": "holds",
        "opening": "holds",
        "pictures": "holds",
        "parity": "holds",
        "latency": "holds",
        "live run": "holds",
        "memory": "not judged",  # too short a run
    }
    assert found.exit_code == 0
    assert found.verdict == "accepted, but not judged: memory"
    assert "; network brightest_channel, fp32" in found.steps[0].text
    assert found.steps[0].values["manifest"]["provenance"] == {}
    live = next(step for step in found.steps if step.name == "live run")
    assert live.values["replayed_fps"] == 30.0
    assert live.values["statistics"]["frames"] >= 5


def test_a_damaged_file_fails_and_what_needs_it_is_skipped(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"damaged")
    found = accept(plan(tmp_path / "m.onnx"))
    assert list(statuses(found).values()) == ["failed"] + ["skipped"] * 6
    assert found.exit_code == 6
    with pytest.raises(BudgetNotHeld, match="not accepted: file"):
        found.raise_if_rejected()


def test_a_missing_runtime_is_exit_code_5(tmp_path, rgb_model, monkeypatch):
    def lacking(*_, **__):
        raise MissingDependency("no runtime; install one")

    monkeypatch.setattr(acceptance, "open_model", lacking)
    found = accept(plan(rgb_model))
    assert statuses(found)["opening"] == "failed"
    assert found.exit_code == 5
    with pytest.raises(MissingDependency, match="no runtime"):
        found.raise_if_rejected()


def test_one_failed_budget_does_not_hide_the_steps_after_it(tmp_path, rgb_model):
    found = accept(plan(rgb_model, max_p99_ms=1e-6))
    assert statuses(found)["latency"] == "failed"
    assert statuses(found)["live run"] == "holds"
    assert found.exit_code == 6


def with_bound(path, frames, *, swapped=False, **parity):
    with open_model(write_rgb_model(path)) as backend:
        stored = take_digest(backend, frames).to_json()
    manifest = rgb_manifest(parity={"fingerprint": stored, "frames": len(frames), **parity})
    return write_rgb_model(path, manifest=manifest.to_json(), swapped=swapped)


def test_parity_without_labels_is_by_the_pixels_that_must_differ(tmp_path):
    frame = np.zeros((*SIZE_HW, 3), np.uint8)
    frame[..., 0] = 9  # all red: seen as BGR it is all blue, every pixel differs
    folder = tmp_path / "pictures"
    from clst_runtime.imaging.image_files import write_png

    write_png(folder / "a.png", frame)
    model = with_bound(tmp_path / "m.onnx", [frame], swapped=True)
    with open_model(model) as backend:
        judged = compare_with_export(backend, model, folder)
    assert judged.holds is False
    assert judged.values["fingerprint"]["differing_share_at_least"] == 1.0
    lax = with_bound(tmp_path / "l.onnx", [frame], swapped=True, bounds={"min_agreement": 0.0})
    with open_model(lax) as backend:
        assert compare_with_export(backend, lax, folder).holds is True


def test_parity_with_labels_is_against_the_miou_of_the_export(tmp_path):
    data = write_labelled(tmp_path / "data")
    model = with_bound(tmp_path / "m.onnx", images(data), labelled=True, miou=1.0, bounds={"max_miou_drop": 0.001})
    with open_model(model) as backend:
        judged = compare_with_export(backend, model, data)
        assert judged.holds is True
        assert judged.values["labels"] == {
            "miou": 1.0,
            "frames": 3,
            "stored": 1.0,
            "max_miou_drop": 0.001,
            "holds": True,
        }
    bgr = with_bound(tmp_path / "b.onnx", images(data), labelled=True, miou=1.0, swapped=True)
    with open_model(bgr) as backend:
        judged = compare_with_export(backend, bgr, data)
    assert judged.values["fingerprint"]["holds"] is True  # left and right change places: as many pixels of each class
    assert judged.values["labels"]["holds"] is False
    assert judged.holds is False


def test_labels_of_more_pictures_than_the_export_took_are_those_it_took(tmp_path):
    data = write_labelled(tmp_path / "data", count=4)
    taken = [images(data)[place] for place in (0, 2)]
    model = with_bound(tmp_path / "m.onnx", taken, labelled=True, miou=1.0)
    with open_model(model) as backend:
        judged = compare_with_export(backend, model, data)
    assert judged.values["labels"]["frames"] == 2
    assert judged.holds is True


def test_other_pictures_and_none_judge_nothing(tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data")
    model = with_bound(tmp_path / "m.onnx", [np.zeros((*SIZE_HW, 3), np.uint8)], labelled=True, miou=1.0)
    with open_model(model) as backend:
        judged = compare_with_export(backend, model, data)
        assert judged.holds is None
        assert "was judged on other images" in judged.text
        assert compare_with_export(backend, model, None).text.startswith("nothing to compare with")
    with open_model(rgb_model) as backend:
        assert "the export stored no mIoU" in compare_with_export(backend, rgb_model, data).text


def test_one_way_that_does_not_hold_decides_whatever_the_others_say():
    judged = ParityOutcome()
    judged.add("a", "a", {}, holds=None)
    assert judged.holds is None
    for name, holds in (("b", True), ("c", False), ("d", True), ("e", None)):
        judged.add(name, name, {}, holds=holds)
    assert judged.holds is False
    assert judged.text == "a; b; c; d; e"


def test_what_of_a_live_run_does_not_hold():
    good = {"interrupted": False, "seconds": 0.6, "stale_spells": 0, "losses": 0, "failures": [], "end": "x"}
    wanted = plan("m")
    assert live_failures(wanted, good) == []
    assert live_failures(wanted, good | {"seconds": 0.1}) == ["it ended early (x)"]
    assert live_failures(wanted, good | {"interrupted": True}) == ["it ended early (x)"]
    assert live_failures(wanted, good | {"stale_spells": 2}) == ["it was stale 2 times"]
    assert live_failures(wanted, good | {"losses": 1, "failures": ["s: full"]}) == [
        "the source was lost 1 times",
        "s: full",
    ]


class Grown:
    """A live run whose memory grew."""

    def __init__(self, growth):
        self.memory = self
        self.samples_mib = []
        self.growth = growth

    def growth_mib(self):
        return self.growth


@pytest.mark.parametrize(("growth", "status"), [(24.0, Status.HOLDS), (24.1, Status.FAILED), (None, Status.NOT_JUDGED)])
def test_memory_that_grows(growth, status):
    step = Step(name="memory")
    check_memory(Bench(plan=plan("m"), opened=None, live=Grown(growth)), step)
    assert step.status is status


def test_a_slow_model_misses_its_deadline(tmp_path, rgb_model, monkeypatch):
    class Slow(FakeBackend):
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(acceptance, "open_model", lambda *_, **__: Slow(milliseconds=12))
    found = accept(Plan(model=rgb_model, seconds=1.2, latency=QUICK, deadline_ms=5.0))
    live = next(step for step in found.steps if step.name == "live run")
    assert live.status is Status.FAILED
    assert "it was stale" in live.text


def test_the_report_is_one_file_for_people_and_programs(tmp_path):
    steps = [Step(name="file", text="a | b\nc"), Step(name="live run", status=Status.FAILED, text="<lost>")]
    found = Acceptance(plan=plan(tmp_path / "m.onnx"), date="today", steps=steps)
    text = report_text(found)
    assert "**not accepted: live run** (exit code 6)" in text
    assert "| file | holds | 0.0 | a \\| b c |" in text
    assert "&lt;lost>" in text
    values = json.loads(re.search(r"```json\n(.*)\n```", text)[1])
    assert values["exit_code"] == 6
    assert [step["status"] for step in values["steps"]] == ["holds", "failed"]
    assert markdown_table(["a"], []) == "| a |\n| --- |"
    for end in ("\n", "\r\n"):
        (tmp_path / "r.md").write_text(text, newline=end)
        assert read_report(tmp_path / "r.md") == values


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (lambda text: text.replace("# Acceptance of", "# Card of"), "no block of JSON"),
        (lambda text: text[: len(text) // 2], "no block of JSON"),
        (lambda text: text.replace('"exit_code": 0', '"exit_code": "0"'), "exit_code is '0'"),
        (lambda text: text.replace('"holds"', '"fine"'), "status is 'fine'"),
    ],
)
def test_what_is_no_report_of_an_acceptance_is_refused_in_a_line(tmp_path, broken, reason):
    text = report_text(Acceptance(plan=plan(tmp_path / "m.onnx"), date="today", steps=[Step(name="file")]))
    (tmp_path / "r.md").write_text(broken(text))
    with pytest.raises(
        DataError, match=f"r.md is no acceptance of clst-doctor --verify .*{reason}.*; give what --report"
    ):
        read_report(tmp_path / "r.md")


def test_no_password_of_any_address_in_a_plan_stands_in_the_report(tmp_path):
    asked = plan(
        Path("https://h/Xq7tokenPart/m.onnx"), data=Path("http://me:Xq7secret@h/x"), source="rtsp://me:Xq7secret@h/"
    )
    assert "Xq7" not in report_text(Acceptance(plan=asked, date="today", steps=[]))


def test_the_command_writes_its_report_whole_and_ends_by_the_verdict(tmp_path):
    data = write_labelled(tmp_path / "data")
    model = tied_model(tmp_path / "m.onnx", images(data))
    arguments = ["--verify", model, "--data", data, "--seconds", "0.5", "--report", tmp_path / "r.md"]
    done = shell("clst-doctor", *arguments)
    assert done.returncode == 0, done.stderr
    assert "accepted" in done.stdout
    assert "| OpenCV |" in (tmp_path / "r.md").read_text()
    done = shell("clst-doctor", *arguments[:-1], tmp_path / "data" / "classes.json" / "r.md")
    assert done.returncode == 3
    assert "cannot write" in done.stderr


def test_labels_that_are_damaged_are_told_and_plain_pictures_are_no_fault(tmp_path, rgb_model):
    data = write_labelled(tmp_path / "data")
    with open_model(rgb_model) as backend:
        assert "holds no labels" in compare_with_export(backend, rgb_model, data / "images").text
        (data / "labels/val/1.png").unlink()
        judged = compare_with_export(backend, rgb_model, data)
    assert "no labels were used" in judged.text
    assert "have no label" in judged.text
    assert judged.holds is None
