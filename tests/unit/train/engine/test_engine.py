"""What stands around the steps of a run: preflight, memory plan, the stop at a loss that is no number, resume in fp16.

The runs are made in this process, on a few synthetic scenes of 64x64.
"""

import contextlib
import dataclasses
import re

import numpy as np
import pytest
import torch
from torch import nn

from clst_runtime.data.dataset import open_dataset
from clst_runtime.errors import ClstError, ConfigError, DataError, ModelFileError
from clst_runtime.imaging.image_files import write_png
from clst_train import training
from clst_train.compute import memory_plan
from clst_train.config import AdaptationConfig, Config, ModelConfig, SourceConfig
from clst_train.data.loading import SOURCE_STREAM, SourceBatch, positions
from clst_train.engine import preflight
from clst_train.engine.logger import Logbook
from clst_train.engine.preflight import check_fit, try_validation
from clst_train.engine.run import SOURCE, Run, Setup, files_of, log_interval, log_step, not_finite
from clst_train.engine.run_folder import RunFolder, open_run
from clst_train.models.checkpoint import load_checkpoint
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter, TrainingOutputs
from clst_train.recipes.recipe import config_from_mapping
from clst_train.stages import source as source_stage
from clst_train.training import _autocast, finish_run, resume_point, start_run
from tests.conftest import RGB_CLASSES, write_labelled
from tests.support.broken_off import broken_off_after_two_steps

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
CPU = torch.device("cpu")
SMALL = (
    *("augmentation.crop_hw=[64,64]", "source.batch=2", "source.iterations=4", "adaptation.iterations=2"),
    *("adaptation.batch=2", "run.checkpoint_every=2", "run.precision=fp32"),
)


def train(cameras, out, *settings, target=True, **more):
    options = {
        "source": str(cameras / "old"),
        "network": "ddrnet23_slim",
        "size": "64x64",
        "settings": (*SMALL, *settings),
    } | more
    if target:
        options["target"] = (str(cameras / "new" / "images" / "train"),)
    return start_run(recipe="demo", out=out, init=None, resume=None, options=options)


def same_weights(first, second):
    first, second = load_checkpoint(first).segmenter_state, load_checkpoint(second).segmenter_state
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def test_a_loss_that_is_no_number_stops_the_run_names_its_images_and_leaves_the_good_checkpoint(
    cameras, tmp_path, monkeypatch
):
    """The fourth step's loss is spoilt; each step computes two losses (the auxiliary head's is the second)."""
    calls, loss = [], source_stage.segmentation_loss

    def spoilt(logits, labels):
        calls.append(None)
        return loss(logits, labels) * (float("nan") if len(calls) == 2 * 3 + 1 else 1.0)

    monkeypatch.setattr(source_stage, "segmentation_loss", spoilt)
    with pytest.raises(ClstError) as caught:
        train(cameras, tmp_path / "run", "source.iterations=9", target=False)
    files = open_dataset(cameras / "old", split="train").files
    names = [str(files[index].image) for index in positions(2, SOURCE_STREAM, 4, 2, 3)]  # seed 1, source training: 2
    assert f"source: loss or gradient is not finite in step 4, with {', '.join(names)}; " in caught.value.message
    assert "the last good checkpoint is kept" in caught.value.message
    assert "\n" not in caught.value.message
    assert len(calls) == 2 * 4  # found when the checkpoint of step 4 was due, not at step 5 when the log was
    kept = load_checkpoint(tmp_path / "run" / "checkpoints" / "resume.pt")
    assert kept.iteration == 2
    assert not_finite(kept.segmenter_state) is None


FP16 = (
    *("run.precision=fp16", "adaptation.iterations=4", "source.batch=4"),
    *("augmentation.crop_hw=[32,32]", "source.iterations=3"),
)


@pytest.fixture(scope="module")
def whole(cameras, tmp_path_factory):
    return train(cameras, tmp_path_factory.mktemp("runs") / "whole", *FP16)


@pytest.mark.parametrize("stage", ["source", "adapted"])
def test_a_run_in_fp16_is_gone_on_with_to_the_bit(cameras, whole, tmp_path, stage):
    with broken_off_after_two_steps(stage):
        train(cameras, tmp_path / "half", *FP16)
    folder, config = open_run(tmp_path / "half")
    half = finish_run(folder, config, resume_point(folder))
    assert same_weights(whole.adapted, half.adapted)
    states = [load_checkpoint(folder.resume).training_state["descent"] for folder in (whole, half)]
    assert states[0] == states[1]
    assert states[0]["scaler"]["_growth_tracker"] + states[0]["skipped"] > 0
    entries = Logbook(half.path).entries
    assert [e["iteration"] for e in entries if "loss" in e] == [1, 2, 3, 1, 2, 3, 4]
    assert all("skipped" in e for e in entries if "loss" in e)


@pytest.mark.parametrize("teacher", ["ensemble", "mean_teacher", "none"])
def test_the_result_is_the_averaged_weights_by_the_new_cameras_statistics(cameras, tmp_path, monkeypatch, teacher):
    monkeypatch.setattr("clst_train.stages.adaptation.old_ones_stay", lambda run, old: False)
    weights = () if teacher != "none" else ("adaptation.self_training_weight=0", "adaptation.contrastive_weight=0")
    plain = () if teacher != "none" else ("adaptation.class_mix=false",)
    folder = train(cameras, tmp_path / "run", f"adaptation.teacher={teacher}", *weights, *plain)
    resume, found = load_checkpoint(folder.resume), load_checkpoint(folder.adapted).segmenter_state
    state = resume.training_state["averaged_weights"]
    assert state["steps"] == 2
    names = [name for name, value in found.items() if value.is_floating_point() and "running" not in name]
    assert all(torch.equal(found[name], state["network"][name]) for name in names)
    assert not all(torch.equal(found[name], resume.segmenter_state[name]) for name in names)
    running = [name for name in found if name.endswith("running_mean")]
    assert not all(torch.equal(found[name], resume.segmenter_state[name]) for name in running)


def test_a_run_with_half_of_each_cameras_statistics_is_not_gone_on_with(cameras, tmp_path):
    with broken_off_after_two_steps():
        train(cameras, tmp_path / "run", "source.iterations=1", "adaptation.iterations=3")
    folder, config = open_run(tmp_path / "run")
    content = torch.load(folder.resume, weights_only=True)
    content["training_state"]["old_statistics"] = {"means": [], "variances": []}
    torch.save(content, folder.resume)
    with pytest.raises(ModelFileError, match="has statistics of both cameras: an earlier version made it; adapt again"):
        finish_run(folder, config, resume_point(folder))


@pytest.mark.parametrize("part", ["averaged_weights", "statistics"])
def test_a_run_of_an_earlier_version_is_not_gone_on_with(cameras, tmp_path, part):
    with broken_off_after_two_steps():
        train(cameras, tmp_path / "run", "source.iterations=1", "adaptation.iterations=3")
    folder, config = open_run(tmp_path / "run")
    content = torch.load(folder.resume, weights_only=True)
    del content["training_state"][part]
    torch.save(content, folder.resume)
    with pytest.raises(ModelFileError, match=f"lacks {part}: an earlier version made it; adapt again with --init"):
        finish_run(folder, config, resume_point(folder))


def test_without_an_ensemble_there_is_no_file_for_it_and_a_run_is_gone_on_with_all_the_same(cameras, tmp_path, capsys):
    settings = ("adaptation.teacher=mean_teacher", "source.iterations=1", "adaptation.iterations=3")
    with broken_off_after_two_steps():
        train(cameras, tmp_path / "run", *settings)
    assert not list((tmp_path / "run").rglob("*ensemble*"))
    assert "ensemble" not in capsys.readouterr().err
    folder, config = open_run(tmp_path / "run")
    finish_run(folder, config, resume_point(folder))
    assert folder.adapted.is_file()
    assert not list(folder.path.rglob("*ensemble*"))


def test_a_run_killed_before_its_first_checkpoint_logs_no_step_twice(cameras, tmp_path):
    train(cameras, tmp_path / "run", target=False)
    for name in ("resume.pt", "source.pt"):
        (tmp_path / "run" / "checkpoints" / name).unlink()
    folder, config = open_run(tmp_path / "run")
    finish_run(folder, config, resume_point(folder))
    assert [entry["iteration"] for entry in Logbook(folder.path).entries] == [1, 2, 3, 4]


def test_labels_of_the_validation_that_cannot_be_used_are_found_before_there_is_a_run(cameras, tmp_path):
    val = write_labelled(tmp_path / "val", size_hw=(64, 64))
    write_png(val / "labels" / "val" / "0.png", np.full((64, 64), 77, np.uint8))
    (tmp_path / "map.json").write_text('{"map": {"red": "road", "green": "sky", "blue": "car"}}')
    with pytest.raises(DataError, match="77"):
        train(cameras, tmp_path / "run", val=str(val), val_mapping=str(tmp_path / "map.json"))
    assert not (tmp_path / "run").exists()


def test_what_plainly_cannot_fit_is_refused_before_there_is_a_run(cameras, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "free_bytes", lambda device: 2**20)
    with pytest.raises(
        ConfigError, match=r"source training: about .* does not fit into the 1 MiB that are free on cpu"
    ):
        train(cameras, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_plan_is_told_with_what_is_free(cameras, tmp_path, capsys):
    train(cameras, tmp_path / "run", "source.iterations=1", "adaptation.iterations=1")
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("memory: ")]
    assert len(told) == 1
    for words in ("source training: about", "activations of 2 crops", "adaptation: about", "activations of 4 crops"):
        assert words in told[0]
    assert "free on this machine" in told[0]


def test_a_run_begins_with_a_line_of_device_precision_threads_and_expected_time(cameras, tmp_path, capsys):
    train(cameras, tmp_path / "run", "source.iterations=1", "adaptation.iterations=1", "run.precision=fp32")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("training on ")]
    time = r"\d+ (s|min)"
    assert re.fullmatch(
        rf"training on cpu, fp32, 1 thread; about {time} \(source training {time}, adaptation {time}\)", line
    )


@pytest.mark.parametrize(
    ("done", "trains_source", "teacher", "entropy_first", "expected"),
    [(0, True, "ensemble", 0.0, (80, 48)), (4, True, "ensemble", 0.0, (48, 48)),
     (1, False, "ensemble", 0.0, (None, 36)), (0, True, "mean_teacher", 0.0, (80, 48)),
     (0, False, "mean_teacher", 0.5, (None, 32)), (3, False, "mean_teacher", 0.5, (None, 12)),
     (0, False, "none", 0.0, (None, 16))],
)  # fmt: skip
def test_the_expected_time_is_steps_times_crops_times_what_a_crop_took(
    monkeypatch, done, trains_source, teacher, entropy_first, expected
):
    """Two crops in 2 s, a whole image in 4 s: steps of 8 crops, then steps of 2 pairs and 2 images: passes are few.

    Both are timed while the thread is bound as it is in training.
    """
    seconds = iter([2.0, 4.0])
    monkeypatch.setattr(preflight, "_timed", lambda work, device: next(seconds) if bound else 0.0)
    bound = []

    @contextlib.contextmanager
    def on_first_core(device):
        bound.append(device)
        yield
        bound.clear()

    monkeypatch.setattr(preflight, "on_first_core", on_first_core)
    weights = {} if teacher != "none" else {"self_training_weight": 0.0, "contrastive_weight": 0.0, "class_mix": False}
    source, adaptation = (
        SourceConfig(iterations=10, batch=8),
        AdaptationConfig(iterations=4, batch=2, teacher=teacher, entropy_first=entropy_first, **weights),
    )
    config = Config(source=source, adaptation=adaptation, model=ModelConfig(input_hw=(64, 64)))
    setup = Setup(
        config=config, classes=RGB_CLASSES, source=None, target=range(4), validation=None, device=CPU,
        autocast=torch.autocast("cpu", enabled=False),
    )  # fmt: skip
    network = build_segmenter("ddrnet23_slim", 3)
    found = preflight.expected_seconds(setup, network, trains_source=trains_source, done=done)
    assert (found.get("source training"), found["adaptation"]) == expected


def test_a_run_killed_between_its_stages_has_the_whole_adaptation_to_come(cameras, tmp_path, monkeypatch):
    folder = train(cameras, tmp_path / "run", target=False)
    point, calls = resume_point(folder), []
    assert (point.stage, point.iteration) == (SOURCE, 4)
    monkeypatch.setattr(training, "run_preflight", lambda setup, **arguments: calls.append(arguments))
    finish_run(folder, open_run(folder.path)[1], point)
    assert calls == [{"trains_source": False, "done": 0}]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [({"a": 1.4}, "about 1 s (a 1 s)"), ({"a": 119.0, "b": 600.0}, "about 12 min (a 119 s, b 10 min)"),
     ({"a": 36000.0}, "about 10 h (a 10 h)"), ({}, "nothing left to train")],
)  # fmt: skip
def test_a_duration_is_rounded(seconds, text):
    assert preflight.duration_line(seconds) == text


PLAN = memory_plan.MemoryPlan(
    stage="adaptation", crops=4, weights=3, activations=30, batches=300, ensemble=3000, frames=0
)


def test_device_and_computer_are_reckoned_apart_on_a_gpu_and_together_on_a_cpu():
    assert (PLAN.on_device(), PLAN.on_host()) == (33, 300)
    check_fit(PLAN, CPU, free=333, host_free=0)
    with pytest.raises(ConfigError, match="free on cpu"):
        check_fit(PLAN, CPU, free=332, host_free=10**9)
    cuda = torch.device("cuda")
    check_fit(PLAN, cuda, free=33, host_free=300)
    with pytest.raises(ConfigError, match="free on cuda"):
        check_fit(PLAN, cuda, free=32, host_free=10**9)
    with pytest.raises(ConfigError, match="free on the computer"):
        check_fit(PLAN, cuda, free=33, host_free=299)
    check_fit(PLAN, cuda, free=None, host_free=None)


def test_the_ensembles_file_is_told_apart_because_it_takes_no_memory_that_others_need():
    line = dataclasses.replace(PLAN, ensemble=3 * 2**20).line()
    assert line.startswith("adaptation: about 0 MiB (")
    assert line.endswith("), and a file of 3 MiB for the ensemble")


def test_weights_count_four_times_and_saved_tensors_once():
    """4·3 weights and 3 biases; a ReLU's result is kept by itself and by the layer behind it: 2·3 numbers, once."""
    layer, head = nn.Linear(4, 3), nn.Linear(3, 1, bias=False)
    assert memory_plan.weight_bytes([layer]) == 4 * (12 + 3) * 4
    images = torch.ones(2, 4)
    kept = memory_plan.saved_bytes(lambda: head(torch.relu(layer(images))).sum(), [layer, head])
    assert kept == 4 * (2 * 4 + 2 * 3)  # the input for the first layer's weights, the ReLU's result
    assert layer.weight.grad is not None


def test_a_containers_limit_counts_where_it_is_the_smaller(tmp_path):
    meminfo = tmp_path / "meminfo"
    assert memory_plan.least_free(meminfo, tmp_path) is None
    meminfo.write_text("MemTotal: 9 kB\nMemAvailable:  5 kB\n")
    assert memory_plan.least_free(meminfo, tmp_path) == 5120
    (tmp_path / "memory.current").write_text("1000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_plan.least_free(meminfo, tmp_path) == 5120
    (tmp_path / "memory.max").write_text("4000\n")
    assert memory_plan.least_free(meminfo, tmp_path) == 3000
    (tmp_path / "memory.max").write_text("900\n")
    assert memory_plan.least_free(meminfo, tmp_path) == 0


def test_the_first_value_that_is_not_finite_is_named():
    good = torch.ones(2)
    assert not_finite({"a": good, "b": [{"c": torch.tensor([1, 2])}], "d": {"e": "word"}}) is None
    assert not_finite({}) is None
    assert not_finite({"a": good, "b": [{"c": torch.tensor([1.0, float("inf")])}]}) == "b 0 c"
    assert not_finite({"a": torch.tensor(float("nan"))}) == "a"


class PerPixel(Segmenter):
    """A 1×1 convolution: no statistics, so that parts of a batch must equal the whole."""

    feature_channels, output_stride, class_count = 3, 1, 3

    def __init__(self):
        super().__init__()
        self.head = nn.Conv2d(3, 3, 1)

    def training_outputs(self, images):
        logits = self.head(images)
        return TrainingOutputs(features=images, logits=logits, auxiliary=logits)


def a_run(tmp_path, *, batch=4, precision="fp32", data=None):
    values = {"source": {"batch": batch}, "run": {"precision": precision}}
    torch.manual_seed(0)
    return Run(
        config=config_from_mapping({**values, "model": {"input_hw": [32, 32]}}, where="test"),
        folder=RunFolder(tmp_path),
        classes=RGB_CLASSES,
        segmenter=PerPixel(),
        source=[] if data is None else data,
        target=None,
        validation=None,
        logbook=Logbook(tmp_path),
        device=CPU,
        autocast=_autocast(precision, CPU),
    )


def test_source_training_gives_a_network_its_own_mean_deviation_and_order_of_channels(tmp_path):
    """Of red 10, green 20 and blue 30: (30 − 1) / 1, (20 − 2) / 2, (10 − 3) / 5."""
    images = np.full((2, 4, 4, 3), (10, 20, 30), np.uint8)
    batch = SourceBatch(images=images, labels=np.zeros((2, 4, 4), np.uint8), mixing=np.zeros((2, 4, 4), bool))
    run, seen = a_run(tmp_path, batch=2), []
    run.segmenter.normalisation = Normalisation((1.0, 2.0, 3.0), (1.0, 2.0, 5.0), "bgr")
    run.segmenter.head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    source_stage.supervised_loss(run, batch)
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([29.0, 9.0, 1.4]))
    saved = run.checkpoint(SOURCE, 1)
    assert (saved.mean, saved.std, saved.channels) == ((1.0, 2.0, 3.0), (1.0, 2.0, 5.0), "bgr")


def test_a_batch_without_a_label_has_a_loss_of_zero(tmp_path):
    blank = SourceBatch(
        images=np.zeros((2, 4, 4, 3), np.uint8),
        labels=np.full((2, 4, 4), 255, np.uint8),
        mixing=np.zeros((2, 4, 4), bool),
    )
    assert source_stage.supervised_loss(a_run(tmp_path, batch=2), blank).item() == 0.0


def test_a_checkpoint_with_a_weight_that_is_no_number_is_never_made(tmp_path):
    run = a_run(tmp_path)
    assert run.checkpoint(SOURCE, 1).iteration == 1
    with torch.no_grad():
        run.segmenter.head.bias[1] = float("nan")
    with pytest.raises(
        ClstError, match="network head.bias is not finite after step 5, so nothing is saved; there is no"
    ):
        run.checkpoint(SOURCE, 5)
    with torch.no_grad():
        run.segmenter.head.bias[1] = 0.0
    with pytest.raises(ClstError, match="training state optimiser m is not finite"):
        run.checkpoint(SOURCE, 5, {"optimiser": {"m": torch.tensor([float("inf")])}})


def test_the_files_of_a_batch_are_those_that_making_it_reads(tmp_path):
    data = open_dataset(write_labelled(tmp_path / "d", count=3), split="val")
    run = a_run(tmp_path, data=data)
    assert files_of(run, lambda run, iteration: [run.source[iteration], run.source[0]], 2) == [
        str(tmp_path / "d" / "images" / "val" / f"{index}.png") for index in (2, 0)
    ]


def test_short_stages_log_every_step_and_long_ones_every_20th():
    assert [log_interval(iterations) for iterations in (0, 1, 99, 100, 300, 40_000)] == [1, 1, 1, 2, 6, 20]


class Watch:
    """A descent without a bad step; counts how often the device is asked."""

    skipped = None

    def __init__(self):
        self.asked = 0

    def first_bad_iteration(self):
        self.asked += 1


def test_the_device_is_asked_only_when_something_is_due(tmp_path, monkeypatch):
    monkeypatch.setattr("clst_train.engine.run.log_interval", lambda iterations: 4)
    run = a_run(tmp_path)
    settings = dataclasses.replace(run.config.run, checkpoint_every=6)
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, run=settings))
    watch, when = Watch(), []
    for done in range(1, 14):
        before = watch.asked
        values = {"loss": torch.tensor(1.0)}
        log_step(run, SOURCE, done, values, iterations=13, settle=None, descent=watch, make=lambda run, i: None)
        when += [done] * (watch.asked - before)
    assert when == [4, 6, 8, 12, 13]
    assert [entry["iteration"] for entry in run.logbook.entries] == [4, 8, 12, 13]


def test_validation_is_tried_with_one_image_and_a_label_without_classes_is_reported(tmp_path, capsys):
    data = open_dataset(write_labelled(tmp_path / "d", count=2, size_hw=(32, 32)), split="val")
    run = a_run(tmp_path)
    data.files[1].label.write_bytes(b"damaged")
    try_validation(run, run.segmenter, data)
    assert capsys.readouterr().err == ""
    write_png(data.files[0].label, np.full((32, 32), 255, np.uint8))
    try_validation(run, run.segmenter, data)
    assert "0.png has no pixel of a known class; is --val-mapping right?" in capsys.readouterr().err
    assert run.logbook.entries == []
