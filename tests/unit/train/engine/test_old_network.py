"""Runs that start from a network that others trained, and what of such files is refused before a run is made."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import clst
from clst_runtime.backends.base import Prediction
from clst_runtime.classes.labels import ClassList, load_class_list
from clst_runtime.errors import ConfigError
from clst_runtime.imaging.geometry import Fit
from clst_train.cli.train import main as clst_train
from clst_train.engine import old_network
from clst_train.models.checkpoint import load_checkpoint
from clst_train.models.networks import build_segmenter
from tests.support.broken_off import broken_off_after_two_steps
from tests.support.command_line import call
from tests.support.foreign import TwoHeads

pytestmark = pytest.mark.usefixtures("narrow", "no_pictures")
SETTINGS = (
    *("augmentation.crop_hw=[64,64]", "source.batch=2", "source.iterations=1", "adaptation.iterations=1"),
    *("adaptation.batch=2", "run.precision=fp32", "run.threads=1"),
)
SMALL = ("--size", "64x96", *(word for setting in SETTINGS for word in ("--set", setting)))
TEN = ("--network", "ddrnet23_slim", "--classes", "scenes10")


@pytest.fixture(scope="module")
def official(tmp_path_factory, narrow):
    """A network as DDRNet's authors save one: other names of the auxiliary head, prefix, loss, a score of NumPy."""
    torch.manual_seed(1)
    state = build_segmenter("ddrnet23_slim", 10).state_dict()
    names = {f"model.{name.replace('auxiliary_head', 'seghead_extra')}": value for name, value in state.items()}
    path = tmp_path_factory.mktemp("official") / "ddrnet.pth"
    torch.save({"epoch": 3, "state_dict": names | {"loss.criterion.weight": torch.ones(10)}}, path)
    return path


def started(cameras, out, *arguments):
    places = ("--source", cameras / "old", "--target", cameras / "new" / "images" / "train", "--out", out)
    return call(clst_train, *SMALL, *places, *arguments)


def refused(cameras, out, *arguments, code=4):
    """One line, no folder; returns the line."""
    done = started(cameras, out, *arguments)
    assert done.exit_code == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("note: ")]
    assert line.startswith("error: ")
    assert not out.exists()
    return line


@pytest.fixture(scope="module")
def run(cameras, official, tmp_path_factory):
    """A run from the official weights: its folder, and what it said."""
    out = tmp_path_factory.mktemp("old") / "run"
    done = started(cameras, out, "--init", official, *TEN)
    assert done.exit_code == 0, done.stderr
    return out, done.stderr


def test_foreign_weights_are_adapted_without_source_training(run, official):
    folder, told = run
    assert "ddrnet.pth: " in told
    assert " tensors loaded, under 'state_dict.model'; not used: loss (1)\n" in told
    assert "class ids 0 to 9 of ddrnet.pth are taken as road, sidewalk, building, pole, " in told
    assert "(the file does not name them, so this is not checked)\n" in told
    stages = {json.loads(line)["stage"] for line in (folder / "log.jsonl").read_text().splitlines()}
    assert stages == {"adapted"}
    source = load_checkpoint(folder / "checkpoints" / "source.pt")
    given = torch.load(official)["state_dict"]
    assert (source.stage, source.network, source.input_hw) == ("source", "ddrnet23_slim", (64, 96))
    for name in ("conv1.0.weight", "final_layer.conv2.bias", "spp.scale4.1.running_var"):
        assert torch.equal(source.segmenter_state[name], given[f"model.{name}"])


def test_it_is_tried_on_labelled_images_of_the_old_camera(run):
    line = next(line for line in run[1].splitlines() if line.startswith("old network: "))
    assert " mIoU on 4 images of the old camera; if you know it for more, look at --classes, --size and the" in line


class Backend:
    """Answers what the function says."""

    def __init__(self, predict):
        self._predict = predict
        self.manifest = SimpleNamespace(input_hw=(4, 4), fit=Fit.STRETCH)

    def predict(self, frame):
        return Prediction(classes=self._predict(frame[..., 0]))


def test_exchanged_classes_are_named(monkeypatch, capsys):
    """The labels are the images; the network says class 1 for 2 and 2 for 1."""
    names = ("road", "person", "car")
    classes = ClassList(name="three", names=names, colours=((0, 0, 0), (1, 1, 1), (2, 2, 2)))
    image = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 1, 0], [2, 2, 1, 0]], np.uint8)
    sample = SimpleNamespace(image=np.repeat(image[..., None], 3, axis=2), labels=image)
    monkeypatch.setattr(old_network, "build_from_checkpoint", lambda started: nn.Identity())
    told = []
    for order in ([0, 1, 2], [0, 2, 1]):
        backend = Backend(lambda classes, order=order: np.array(order, np.uint8)[classes])
        monkeypatch.setattr(old_network, "segmenter_backend", lambda segmenter, backend=backend, **facts: backend)
        started = SimpleNamespace(network="n", classes=classes, input_hw=(4, 4), fit=Fit.STRETCH)
        old_network.report_on_source(started, [sample] * 20, torch.device("cpu"))
        told.append(capsys.readouterr().err)
    assert told[0].startswith("old network: 100.0 mIoU on 8 images")
    assert told[0].count("\n") == 1
    assert told[1].startswith("old network: 33.3 mIoU on 8 images")
    assert "the labels say car where it says person, person where it says car; is --classes in the" in told[1]


@pytest.mark.parametrize(
    ("counts", "exchanged"),
    [
        ([[9, 0, 0], [0, 9, 0], [0, 0, 9]], []),
        ([[0, 9, 0], [9, 0, 0], [0, 0, 9]], [(0, 1), (1, 0)]),
        ([[0, 9, 0], [0, 0, 9], [9, 0, 0]], [(0, 2), (1, 0), (2, 1)]),
        ([[90, 9, 9], [0, 1, 0], [0, 0, 1]], []),  # a weak network sees rare classes in the road
        ([[0, 5, 0], [0, 4, 0], [0, 0, 9]], []),  # and never says road
        ([[4, 5, 0], [5, 4, 1], [0, 0, 9]], [(0, 1), (1, 0)]),
        ([[0, 0, 0], [0, 0, 0], [0, 0, 0]], []),
    ],
)
def test_another_order_of_classes_is_told_from_weakness(counts, exchanged):
    assert old_network.exchanged_classes(np.array(counts)) == exchanged


def test_both_checkpoints_say_which_file_the_old_network_came_from(run, official):
    assert load_checkpoint(run[0] / "checkpoints" / "source.pt").temperature == 1, "nothing was fitted to it"
    for name in ("source.pt", "adapted.pt"):
        file = load_checkpoint(run[0] / "checkpoints" / name).weights_file
        assert file.name == "ddrnet.pth"
        assert file.sha256 == hashlib.sha256(official.read_bytes()).hexdigest()


def test_a_resumed_run_still_says_it(official, cameras, tmp_path):
    out = tmp_path / "out"
    with broken_off_after_two_steps():
        more = ("--set", "adaptation.iterations=3", "--set", "run.checkpoint_every=2")
        started(cameras, out, "--init", official, *TEN, *more)
    assert not (out / "checkpoints" / "adapted.pt").exists()
    done = call(clst_train, "--resume", out)
    assert done.exit_code == 0, done.stderr
    assert "tensors loaded" not in done.stderr  # the file is not read again
    assert load_checkpoint(out / "checkpoints" / "adapted.pt").weights_file.name == "ddrnet.pth"


def test_a_run_s_folder_is_taken_by_its_newest_result(run, cameras, tmp_path):
    out = tmp_path / "out"
    done = started(cameras, out, "--init", run[0])
    assert done.exit_code == 0, done.stderr
    adapted = run[0] / "checkpoints" / "adapted.pt"
    assert f"note: the network of {adapted}\n" in done.stderr
    first, second = (load_checkpoint(path).segmenter_state for path in (adapted, out / "checkpoints" / "source.pt"))
    assert torch.equal(first["conv1.0.weight"], second["conv1.0.weight"])


def test_another_network_than_the_checkpoint_s_is_refused(run, cameras, tmp_path):
    asked = (("--network", "deeplabv2_resnet101"), ("--set", "model.network=deeplabv2_resnet101"))
    for words in asked:
        line = refused(cameras, tmp_path / "out", "--init", run[0], *words, code=3)
        assert "model.network = 'deeplabv2_resnet101' is not the network of the checkpoint (ddrnet23_slim)" in line


BGR = ("model.channels=bgr", "model.mean=[103.53,116.28,123.675]", "model.std=[57.375,57.12,58.395]")


def test_a_network_that_takes_bgr_is_adapted_as_its_rgb_twin_and_keeps_its_order(run, official, cameras, tmp_path):
    """Its first convolution reads the channels the other way round; the first step's losses differ by roundings."""
    turned = torch.load(official)["state_dict"]["model.conv1.0.weight"].flip(1)
    weights = changed(official, tmp_path / "bgr.pth", conv1__0__weight=turned)
    done = started(
        cameras, tmp_path / "bgr", "--init", weights, *TEN, *(word for setting in BGR for word in ("--set", setting))
    )
    assert done.exit_code == 0, done.stderr
    logs = [
        [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
        for out in (run[0], tmp_path / "bgr")
    ]
    first, second = (next(entry["loss"] for entry in log if "loss" in entry) for log in logs)
    assert first == pytest.approx(second, rel=1e-3)
    adapted = tmp_path / "bgr" / "checkpoints" / "adapted.pt"
    assert (load_checkpoint(adapted).channels, load_checkpoint(adapted).mean[0]) == ("bgr", 103.53)
    again = started(cameras, tmp_path / "again", "--init", adapted)  # its own, without being asked
    assert again.exit_code == 0, again.stderr
    assert load_checkpoint(tmp_path / "again" / "checkpoints" / "adapted.pt").channels == "bgr"
    line = refused(cameras, tmp_path / "out", "--init", adapted, "--set", "model.channels=rgb", code=3)
    assert "model.channels = rgb, but the network of the checkpoint was trained with bgr and keeps it" in line
    line = refused(cameras, tmp_path / "out", "--init", run[0], "--set", BGR[1], code=3)
    assert "model.mean = [103.53, 116.28, 123.675], but the network of the checkpoint was trained with [123" in line


def changed(official, path, **changes):
    """The official file with other tensors under `state_dict.model`; None takes one out."""
    content = torch.load(official)
    names = {f"model.{name.replace('__', '.')}": value for name, value in changes.items()}
    content["state_dict"] = {
        name: value for name, value in (content["state_dict"] | names).items() if value is not None
    }
    torch.save(content, path)
    return path


def test_what_foreign_class_ids_mean_is_asked(official, cameras, tmp_path):
    line = refused(cameras, tmp_path / "out", "--init", official, code=3)
    assert "what the class ids of" in line
    assert "has to be said: give --classes" in line
    content = torch.load(official) | {"meta": {"CLASSES": ("road", "sky")}}
    torch.save(content, tmp_path / "named.pth")
    line = refused(cameras, tmp_path / "out", "--init", tmp_path / "named.pth", code=3)
    assert line.endswith("in the order of its ids; the file names road, sky")


def test_another_number_of_classes_says_both_and_what_to_do(official, cameras, tmp_path):
    line = refused(cameras, tmp_path / "out", "--init", official, *TEN[:2], "--classes", "road19", code=3)
    assert f"{official} has 10 classes, road19 has 19 (road, " in line
    assert "give --classes a list of its 10 classes in the order of their ids, or start source training from" in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"layer4__0__conv1__weight": None},
            "1 of 289 tensors of ddrnet23_slim would stay random, 'layer4.0.conv1.weight'",
        ),
        ({"conv1__0__bias": torch.full((4,), float("nan"))}, "'state_dict.model.conv1.0.bias' has values that are no"),
        ({"conv1__0__bias": torch.zeros(4, dtype=torch.int64)}, "'state_dict.model.conv1.0.bias' is int64"),
    ],
)
def test_weights_that_are_no_whole_network_make_no_run(changes, words, official, cameras, tmp_path):
    line = refused(cameras, tmp_path / "out", "--init", changed(official, tmp_path / "w.pth", **changes), *TEN)
    assert words in line


def test_an_auxiliary_head_may_stay_random_and_is_the_same_in_each_run(official, cameras, tmp_path):
    content = torch.load(official)
    content["state_dict"] = {name: each for name, each in content["state_dict"].items() if "seghead" not in name}
    torch.save(content, tmp_path / "w.pth")
    heads = []
    for name in ("one", "two"):
        done = started(cameras, tmp_path / name, "--init", tmp_path / "w.pth", *TEN)
        assert "; random: auxiliary_head (11); not used: loss (1)" in done.stderr
        state = load_checkpoint(tmp_path / name / "checkpoints" / "source.pt").segmenter_state
        heads.append(state["auxiliary_head.conv1.weight"])
    assert torch.equal(*heads)


def test_files_of_no_use_are_refused_before_pytorch_looks_at_them(cameras, tmp_path):
    (tmp_path / "empty.pth").touch()
    (tmp_path / "cut.pth").write_bytes(b"PK\x03\x04 and no more")
    (tmp_path / "folder").mkdir()
    for name, words in (("empty.pth", "(0 bytes)"), ("cut.pth", "is damaged"), ("folder", "a folder, where a file is")):
        assert words in refused(cameras, tmp_path / "out", "--init", tmp_path / name, *TEN)
    line = refused(cameras, tmp_path / "out", "--network", "ddrnet", code=3)
    assert "did you mean 'ddrnet23_slim'" in line


def test_a_pickled_module_is_taken_on_demand_alone(cameras, tmp_path):
    torch.manual_seed(2)
    torch.save(build_segmenter("ddrnet23_slim", 10), tmp_path / "m.pt")
    line = refused(cameras, tmp_path / "out", "--init", tmp_path / "m.pt", *TEN)
    assert "holds Python objects (clst_train.models.built_in.ddrnet.DDRNetSlim), which could run any program" in line
    done = started(cameras, tmp_path / "out", "--init", tmp_path / "m.pt", "--trust-pickle", *TEN)
    assert done.exit_code == 0, done.stderr
    line = refused(cameras, tmp_path / "none", "--trust-pickle", code=3)
    assert "--trust-pickle is for the file of --init" in line


def test_a_network_of_one_s_own_goes_in_as_it_is(cameras, tmp_path):
    """A factory's network, half floats, names of the classes in the metadata, no auxiliary head."""
    safetensors = pytest.importorskip("safetensors.torch")
    theirs = {name: each for name, each in TwoHeads(10).half().state_dict().items() if "aux" not in name}
    names = load_class_list("scenes10").names
    file = tmp_path / "theirs.safetensors"
    safetensors.save_file(theirs, file, metadata={"id2label": json.dumps(dict(enumerate(names)))})
    asked = ("--init", file, "--network", "tests.support.foreign:TwoHeads", "--classes", "scenes10")
    done = started(cameras, tmp_path / "out", *asked)
    assert done.exit_code == 0, done.stderr
    assert "theirs.safetensors: 10 of 12 tensors loaded, from float16; random: aux_classifier (2)\n" in done.stderr
    assert "bicycle (as the file names them)\n" in done.stderr
    source = load_checkpoint(tmp_path / "out" / "checkpoints" / "source.pt")
    assert torch.equal(source.segmenter_state["classifier.2.bias"], theirs["classifier.2.bias"].float())
    safetensors.save_file(theirs, file, metadata={"id2label": json.dumps(dict(enumerate(reversed(names))))})
    line = refused(cameras, tmp_path / "none", *asked, code=3)
    assert "theirs.safetensors names class 0 'bicycle', scenes10 names it 'road'; give --classes" in line


def test_init_and_resume_are_not_given_together(run, official):
    done = call(clst_train, "--resume", run[0], "--init", official)
    assert done.exit_code == 2
    assert "--resume goes on with the run as it was configured; give it alone" in done.stderr


def test_from_python_the_same_options_are_there(official, cameras, tmp_path, monkeypatch):
    places = {"source": cameras / "old", "out": tmp_path / "out", "init": official}
    with pytest.raises(ConfigError, match="has 10 classes, road19 has 19"):
        clst.train(**places, network="ddrnet23_slim", classes="road19")
    with pytest.raises(ConfigError, match="--pretrained is for source training, which --init skips"):
        clst.train(**places, pretrained=official)
    with pytest.raises(ConfigError, match="--trust-pickle is for"):
        clst.train(source=cameras / "old", out=tmp_path / "out", trust_pickle=True)
