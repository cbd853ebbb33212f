"""Rows of benchmarks/adaptation/compare.py: what each trains with, and the messages for wrong options."""

import dataclasses
import json
import signal
import sys
import time
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

import clst_train.method.entropy_first as entropy_first
import clst_train.method.step as step
import clst_train.stages.adaptation as stage
from benchmarks.adaptation import compare as adaptation
from benchmarks.adaptation.methods import EXTRAS, METHODS, SHUFFLE, Method, extras_of
from benchmarks.adaptation.pairs import Labelled, Pair
from clst_train.config import AdaptationConfig
from clst_train.engine.options import configure
from clst_train.method.teachers import probabilities_of
from tests.support.tiny import batches, learner


def config_of(method: Method):
    return configure("new_camera", {"source": "old", "target": ("new",), "settings": method.settings})


def a_job(work, method="clst", **more):
    old, new = Labelled(root=work, split="old"), Labelled(root=work, split="new")
    pair = Pair(name="p", title="p", size="64x96", source=old, oracle=new, choice=new, test=old)
    given = {"seed": 2, "source_steps": 30, "steps": 10, "oracle_times": 4, "settings": ("run.threads=2",)} | more
    return adaptation.Job(pair=pair, work=work, method=method, **given)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_row_trains_with_settings_that_exist(name):
    assert config_of(METHODS[name]).adaptation.iterations > 0


def test_no_two_adaptations_train_alike():
    adapted = {name: each for name, each in METHODS.items() if name not in ("source", "statistics", "oracle_long")}
    seen = [(config_of(method), method.oracle, method.patch) for method in adapted.values()]
    assert all(seen.index(each) == place for place, each in enumerate(seen)), list(adapted)


def test_an_extra_is_what_a_recipe_switches_on_and_not_how_strong_it_is():
    recipe = {
        "adaptation": {"class_mix": True, "batch": 2, "learning_rate": 1e-4, "statistics_momentum": 0.5},
        "augmentation": {"target_look": True, "colour": 0.3, "crop_share": 0.8},
        "source": {"colour": 0.5},
    }
    assert extras_of(recipe) == {
        "class_mix": "adaptation.class_mix=false",
        "target_look": "augmentation.target_look=false",
    }


def test_ensemble_and_contrast_alone_are_the_recipe_without_any_extra():
    plain, whole = config_of(METHODS["both"]), config_of(METHODS["clst"])
    assert EXTRAS
    for _, setting in EXTRAS:
        section, key = setting.partition("=")[0].split(".")
        assert not getattr(getattr(plain, section), key) or getattr(getattr(plain, section), key) == "none"
        assert getattr(getattr(whole, section), key)
    assert plain.adaptation.teacher == "ensemble"
    assert plain.adaptation.contrastive_weight == AdaptationConfig().contrastive_weight


def test_the_rival_with_all_extras_differs_from_clst_by_its_teacher_alone():
    whole, rival = (config_of(METHODS[name]).to_mapping() for name in ("clst", "mean_teacher_full"))
    rival["adaptation"]["teacher"] = "ensemble"
    assert rival == whole


def test_the_control_gives_every_pixel_the_next_class(monkeypatch):
    labels = torch.tensor([[0, 2, 255]])
    monkeypatch.setattr(step, "pseudo_labels_of", lambda *_: labels)
    exec(SHUFFLE.replace("CLASSES", "3"), {})
    assert step.pseudo_labels_of().tolist() == [[1, 0, 255]]


def test_the_mean_teacher_s_row_weighs_the_targets_own_pixels_by_the_share_of_sure_cells(monkeypatch):
    """That share s: (Σ own s·CE + Σ pasted CE) / all pixels, counted by a plain loop."""
    for name in ("soft_labels_of", "_student_crops_of", "segmentation_loss"):
        monkeypatch.setattr(step, name, getattr(step, name))
    exec(METHODS["mean_teacher"].patch.replace("0.968", "0.4"), {})
    chosen = {"teacher": "mean_teacher", "contrastive_weight": 0.0}
    source, target = batches()
    result = step.adaptation_step(learner(**chosen), source, target, target_weight=1.0)
    twin, mask = learner(**chosen), torch.from_numpy(source.mixing)
    said = probabilities_of(twin.segmenter, twin.tensor(target.whole), twin.autocast)
    share = float((said.amax(1) > 0.4).sum()) / said[:, 0].numel()
    assert 0.1 < share < 0.9
    with torch.no_grad():
        twin.segmenter(twin.tensor(source.images))
        logits = twin.segmenter(torch.where(mask[:, None], twin.tensor(source.images), twin.tensor(target.crops)))
    labels = torch.where(mask, torch.from_numpy(source.labels).long(), said.argmax(1))
    terms = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    expected = (terms[mask].sum() + share * terms[~mask].sum()) / terms.numel()
    assert result.parts["self_training"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_later_code_s_row_is_sgd_with_one_step_for_the_source_and_one_for_the_target(monkeypatch):
    """At the beginning of the warm-up the target's loss weighs nothing, so its step has gradients of 0."""
    for place in (step, entropy_first):
        monkeypatch.setattr(place, "segmentation_loss", place.segmentation_loss)
    for name in ("adamw", "_step"):
        monkeypatch.setattr(stage, name, getattr(stage, name))
    exec(METHODS["later_code"].patch, {})
    config, (source, target) = config_of(METHODS["later_code"]), batches()
    one = dataclasses.replace(learner(), settings=config.adaptation)
    run = SimpleNamespace(config=config, segmenter=one.segmenter, device=one.device, scaled=False, target=[0, 1])
    state = SimpleNamespace(learner=one, descent=stage.descent_of(run, one), anew_since=0)
    optimiser, steps = state.descent.optimiser, []
    assert isinstance(optimiser, torch.optim.SGD)
    assert [optimiser.defaults[name] for name in ("lr", "momentum", "weight_decay")] == [2.5e-4, 0.9, 5e-4]
    assert (config.adaptation.batch, config.adaptation.self_training_weight) == (2, 0.1)
    optimiser.register_step_pre_hook(lambda *_: steps.append(bool(one.segmenter.head.weight.grad.any())))
    for iteration, begin in ((0, 9), (9, 9), (2999, 9)):
        state.descent.descend(stage._step(run, state, source, target, iteration, begin).loss, iteration)
    assert steps == [True, False, True, False, True, True]


@pytest.fixture
def data(tmp_path):
    """A folder that holds both data sets' names and little more."""
    for name in ("camvid", "idd_lite"):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "classes.json").write_text("{}")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--methods", "clst,clts"], "unknown methods clts"), (["--size", "240"], "not rows x columns")],
)
def test_a_wrong_option_is_one_line_and_nothing_is_made(tmp_path, data, arguments, message):
    work = tmp_path / "work"
    result = CliRunner().invoke(adaptation.main, ["camera-none", "--work", str(work), "--data", str(data), *arguments])
    assert result.exit_code == 2
    assert message in result.output
    assert not work.exists()


def test_a_folder_without_the_data_sets_is_one_line(tmp_path, data):
    (data / "idd_lite" / "classes.json").unlink()
    result = CliRunner().invoke(adaptation.main, ["camera-none", "--work", str(tmp_path / "work"), "--data", str(data)])
    assert result.exit_code == 2
    assert "idd_lite with classes.json" in " ".join(result.output.split())


def test_a_kept_network_of_other_settings_is_refused(tmp_path):
    job = a_job(tmp_path)
    job.network.parent.mkdir(parents=True)
    facts = job.network.with_suffix(".json")
    facts.write_text(json.dumps({"settings": job.all_settings()}))
    adaptation.check_kept(job)
    facts.write_text(json.dumps({"settings": [*job.all_settings(), "run.threads=1"]}))
    with pytest.raises(adaptation.click.UsageError, match=r"other settings \(run\.threads=1\)"):
        adaptation.check_kept(job)


def test_what_a_removed_network_has_left_is_not_gone_on_with(tmp_path, monkeypatch):
    """Neither its counts nor its run, which has other settings perhaps; those of a broken-off training are."""
    job, seen = a_job(tmp_path), []
    counts, facts = job.network.with_suffix(".test.npy"), job.network.with_suffix(".json")
    for path in (counts, job.run / "config.toml"):
        path.parent.mkdir(parents=True)
        path.touch()

    def trained(job, trainings):
        seen.append((job.run.is_dir(), counts.is_file()))
        raise RuntimeError

    monkeypatch.setattr(adaptation, "trained", trained)
    for _ in range(2):
        with pytest.raises(RuntimeError):
            adaptation.make(job, adaptation.Trainings())
        job.run.mkdir(exist_ok=True)
    assert seen == [(False, False), (True, False)]
    assert json.loads(facts.read_text())["settings"] == job.all_settings()


def test_an_interrupt_ends_the_training_at_hand_and_begins_no_other(tmp_path, monkeypatch):
    begun, codes, jobs = [], [], [a_job(tmp_path, name) for name in ("source", "statistics", "clst", "oracle")]

    def make(job, trainings):
        begun.append(job.method)
        if job.method == "clst":
            codes.append(trainings.run([sys.executable, "-c", "import time; time.sleep(60)"]))

    def finished():
        while begun[-1] != "clst":
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(adaptation, "make", make)
    with pytest.raises(KeyboardInterrupt):
        adaptation.run_all(jobs, 1, finished)
    assert begun == ["source", "statistics", "clst"]
    assert codes == [-signal.SIGTERM]


def test_all_of_a_networks_settings_are_kept_with_it(tmp_path):
    common = ["model.input_hw=[64,96]", "run.threads=2"]
    assert a_job(tmp_path).all_settings() == [*common, "adaptation.iterations=10", "run.seed=2"]
    assert a_job(tmp_path, "statistics").all_settings() == [*common, "run.seed=2"], "no step changes them"
    assert a_job(tmp_path, "source").all_settings() == [*common, "source.iterations=30", "run.seed=2"]
    assert a_job(tmp_path, "oracle_long").all_settings() == [*common, "source.iterations=120", "run.seed=2"]


def test_weights_to_start_from_are_for_source_training_alone(tmp_path):
    settings = ("model.pretrained=none",)
    assert "model.pretrained=none" in a_job(tmp_path, "oracle_long", settings=settings).all_settings()
    assert "model.pretrained=none" not in a_job(tmp_path, settings=settings).all_settings()


def test_only_oracles_train_on_the_new_cameras_labels(tmp_path):
    splits = {}
    for name in METHODS:
        arguments = a_job(tmp_path, name).arguments()
        splits[name] = arguments[arguments.index("--split") + 1]
        assert ("--init" in arguments) == (name not in ("source", "oracle_long"))
    assert {name for name, split in splits.items() if split == "new"} == {"oracle", "oracle_long"}
