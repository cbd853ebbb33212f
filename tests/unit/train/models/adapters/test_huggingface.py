"""Networks of Hugging Face transformers, by the library where it is installed and by a stand-in everywhere."""

import json
import re
import sys

import pytest
import torch

from clst_runtime.errors import ConfigError, MissingDependency, ModelFileError
from clst_runtime.system.files.hashing import file_sha256
from clst_train.config import Config, ModelConfig
from clst_train.engine.old_network import open_old_network
from clst_train.models.networks import build_segmenter, network_of
from clst_train.models.weights.pretrained import load_pretrained
from tests.fakes import libraries

NAMES = ("road", "traffic_light", "sky")


@pytest.fixture(params=["stand-in", "installed"])
def save(request, monkeypatch, tmp_path):
    """A function that saves a small network with these class names to a folder; None = without names."""
    if request.param == "stand-in":
        monkeypatch.setitem(sys.modules, "transformers", libraries.transformers())
        return lambda folder, names: libraries.save_tiny(folder, names or [f"LABEL_{index}" for index in range(3)])
    transformers = pytest.importorskip("transformers")

    def save(folder, names):
        labels = dict(enumerate(names or [f"LABEL_{index}" for index in range(3)]))
        config = transformers.SegformerConfig(
            depths=[1, 1, 1, 1], hidden_sizes=[8, 8, 8, 8], decoder_hidden_size=8, num_attention_heads=[1, 1, 1, 1],
            id2label=labels, label2id={name: index for index, name in labels.items()},
        )  # fmt: skip
        transformers.SegformerForSemanticSegmentation(config).save_pretrained(folder)

    return save


def model_of(folder, **settings):
    return ModelConfig(network=f"hf:{folder}", input_hw=(64, 96), **settings)


def loaded(folder, classes):
    """The network after its weights are loaded, what it was before, and the lines that are reported."""
    network = network_of(model_of(folder), len(classes))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    found, message = load_pretrained(network, model_of(folder), classes)
    assert found == file_sha256(folder / "model.safetensors")
    return network, before, message.splitlines()


def classifier(state):
    return next(value for name, value in state.items() if name.endswith("classifier.weight"))


def saved(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def sums(state):
    """Of all tensors but the classifier's: transformers calls some by other names in files."""
    floats = {name: value.double() for name, value in state.items() if value.is_floating_point()}
    return sorted(value.sum().item() for name, value in floats.items() if "classifier" not in name)


def test_the_same_classes_keep_their_classifier(save, tmp_path):
    save(tmp_path / "mine", NAMES)
    network, before, lines = loaded(tmp_path / "mine", ("Road", "traffic light", "sky"))
    state, file = network.state_dict(), saved(tmp_path / "mine")
    assert sums(state) == sums(file) != sums(before)
    assert torch.equal(classifier(state), classifier(file))
    assert lines[1:] == ["its classifier stays: the weights name the same 3 classes in the same order"]
    assert (network.output_stride, network.head.endswith("classifier")) == (4, True)


@pytest.mark.parametrize(
    ("names", "classes", "line"),
    [
        (NAMES, ("road", "sky"), "classifier of 3 classes replaced by a new one of 2"),
        (
            NAMES,
            ("road", "sky", "traffic_light"),
            "classifier of 3 classes replaced by a new one of 3; class 1 is 'traffic_light' there, 'sky' here",
        ),
        (
            None,
            NAMES,
            "classifier of 3 classes replaced by a new one of 3; the weights do not name their classes",
        ),
    ],
)
def test_other_classes_get_a_new_classifier_and_a_line_says_so(save, tmp_path, names, classes, line):
    save(tmp_path / "mine", names)
    network, before, lines = loaded(tmp_path / "mine", classes)
    assert lines[1:] == [line]
    assert torch.equal(classifier(before), classifier(network.state_dict()))
    assert sums(network.state_dict()) == sums(saved(tmp_path / "mine")) != sums(before)


def test_weights_of_an_encoder_alone_leave_the_rest_random(save, tmp_path):
    save(tmp_path / "mine", NAMES)
    from safetensors.torch import save_file

    file = {name: value for name, value in saved(tmp_path / "mine").items() if "encoder" in name}
    save_file(file, tmp_path / "mine" / "model.safetensors", metadata={"format": "pt"})
    network, before, lines = loaded(tmp_path / "mine", NAMES)
    assert len(lines) == 1
    assert "random: " in lines[0]
    assert torch.equal(classifier(before), classifier(network.state_dict()))


def test_random_weights_need_the_configuration_alone(save, tmp_path):
    save(tmp_path / "mine", NAMES)
    (tmp_path / "mine" / "model.safetensors").unlink()
    model = model_of(tmp_path / "mine", pretrained="none")
    network = network_of(model, 3)
    assert load_pretrained(network, model, NAMES) == ("", "")
    with pytest.raises(ModelFileError, match=r"has no model.safetensors; give hf:FOLDER.*, or --pretrained none"):
        load_pretrained(network, model_of(tmp_path / "mine"), NAMES)


def test_a_checkpoints_architecture_builds_it_where_the_folder_is_gone(save, tmp_path):
    save(tmp_path / "mine", NAMES)
    network, _, _ = loaded(tmp_path / "mine", NAMES)
    (tmp_path / "mine").rename(tmp_path / "gone")
    architecture = json.loads(json.dumps(network.architecture))
    again = build_segmenter(f"hf:{tmp_path / 'mine'}", 3, architecture=architecture)
    again.load_state_dict(network.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(again.eval()(images), network.eval()(images))
    with pytest.raises(ModelFileError, match=r"there is no .*config.json; give hf:FOLDER with config.json"):
        build_segmenter(f"hf:{tmp_path / 'mine'}", 3)


@pytest.mark.parametrize(
    ("preprocessor", "line"),
    [
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}, "mean 127.5, 127.5, 127.5 and deviation 63.75, 63.75"),
        ({"image_mean": [1.5] * 3, "image_std": [1] * 3, "rescale_factor": 0.01}, "mean 150, 150, 150 .*deviation 100"),
        ({"image_mean": [9] * 3, "image_std": [8] * 3, "do_rescale": False}, "mean 9, 9, 9 and deviation 8, 8, 8"),
        ({"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}, None),
        ({"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": False}, None),
    ],
)
def test_weights_of_another_normalisation_are_reported(save, tmp_path, preprocessor, line):
    save(tmp_path / "mine", NAMES)
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    notes = loaded(tmp_path / "mine", NAMES)[2][2:]
    assert len(notes) == (line is not None)
    if line is not None:
        assert re.search(line, notes[0])


@pytest.mark.parametrize("values", [{"image_mean": [0.5]}, {"image_mean": "x", "image_std": [1, 1, 1]}])
def test_a_preprocessor_that_cannot_be_read_is_named(save, tmp_path, values):
    save(tmp_path / "mine", NAMES)
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(values))
    with pytest.raises(ModelFileError, match=r"preprocessor_config.json: no usable image_mean and image_std"):
        loaded(tmp_path / "mine", NAMES)


def test_damaged_weights_and_another_hash_are_refused(save, tmp_path):
    save(tmp_path / "mine", NAMES)
    network = network_of(model_of(tmp_path / "mine"), 3)
    with pytest.raises(ModelFileError, match=r"SHA-256 .* expected 000000000000"):
        load_pretrained(network, model_of(tmp_path / "mine"), NAMES, expected="0" * 64)
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"")
    with pytest.raises(ModelFileError, match=r"model.safetensors cannot be read \(.*give hf:FOLDER"):
        load_pretrained(network, model_of(tmp_path / "mine"), NAMES)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "transformers", libraries.transformers())
    monkeypatch.setitem(sys.modules, "huggingface_hub", libraries.huggingface_hub(tmp_path / "cache"))
    return tmp_path / "cache"


def test_an_id_means_what_the_hubs_cache_has(hub):
    libraries.save_tiny(hub / "owner--name" / "main", NAMES)
    libraries.save_tiny(hub / "owner--name" / "v2", NAMES[:2])
    assert build_segmenter("hf:owner/name", 3).class_count == 3
    model = ModelConfig(network="hf:owner/name?revision=v2", input_hw=(64, 96))
    message = load_pretrained(network_of(model, 3), model, NAMES)[1]
    assert "classifier of 2 classes replaced by a new one of 3" in message


@pytest.mark.parametrize(
    ("network", "error", "message"),
    [
        ("hf:owner/name", ModelFileError, r"fetch it once by 'hf download owner/name', or give hf:FOLDER"),
        ("hf:owner/name?revision=v2", ModelFileError, "hf download owner/name --revision v2"),
        ("hf:owner/name/more", ConfigError, "neither a folder nor OWNER/NAME"),
        ("hf:owner/name?width=3", ConfigError, "'width' is no option here"),
    ],
)
def test_what_is_not_on_this_machine_is_never_downloaded(hub, network, error, message):
    with pytest.raises(error, match=message):
        build_segmenter(network, 3)


def test_a_network_without_logits_is_refused_by_its_kind(hub):
    libraries.save_tiny(hub / "owner--name" / "main", NAMES)
    file = hub / "owner--name" / "main" / "config.json"
    file.write_text(file.read_text().replace('"tiny"', '"masks"'))
    with pytest.raises(ConfigError, match="of the kind 'masks', which returns no logits NxCxhxw.*kinds tiny"):
        build_segmenter("hf:owner/name", 3)
    file.write_text("{")
    with pytest.raises(ConfigError, match=r"hf:owner/name cannot be built: JSONDecodeError"):
        build_segmenter("hf:owner/name", 3)


def test_without_transformers_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingDependency, match=r"transformers cannot be imported.*\[hf\]"):
        build_segmenter("hf:owner/name", 3)


def test_a_trained_network_is_adapted_as_it_is(save, tmp_path, caplog):
    caplog.set_level("INFO")
    save(tmp_path / "mine", NAMES)
    preprocessor = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["road", "traffic light", "sky"]}))
    config = Config(model=model_of(tmp_path / "mine", classes=str(tmp_path / "classes.json")))
    started = open_old_network(tmp_path / "mine" / "model.safetensors", config)
    assert sums(started.segmenter_state) == sums(saved(tmp_path / "mine"))
    assert torch.equal(classifier(started.segmenter_state), classifier(saved(tmp_path / "mine")))
    assert started.architecture["model_type"] in ("tiny", "segformer")
    assert started.provenance["package"].startswith("transformers")
    assert "trained on images of mean 127.5, 127.5, 127.5 and deviation 63.75, 63.75, 63.75" in caplog.text
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["road", "sky", "traffic light"]}))
    with pytest.raises(ConfigError, match="names class 1 'traffic_light', .* names it 'sky'"):
        open_old_network(tmp_path / "mine" / "model.safetensors", config)
