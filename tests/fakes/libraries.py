"""Stand-ins for libraries of networks, with no more of their interfaces than this project calls."""

from __future__ import annotations

import enum
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import ClassVar

import torch
from torch import nn


class TinyConfig:
    """A configuration as transformers has them: labels by id, their number as a property that renames them."""

    model_type = "tiny"

    def __init__(self, id2label=None, num_labels=2, width=4, **rest):
        labels = id2label or {index: f"LABEL_{index}" for index in range(num_labels)}
        self.id2label = {int(key): value for key, value in labels.items()}
        self.width = width

    @property
    def num_labels(self):
        return len(self.id2label)

    @num_labels.setter
    def num_labels(self, count):
        self.id2label = {index: f"LABEL_{index}" for index in range(count)}

    def to_json_string(self, use_diff=True):
        assert not use_diff
        return json.dumps({"model_type": self.model_type, "id2label": self.id2label, "width": self.width})


class OtherConfig(TinyConfig):
    model_type = "masks"


CONFIGS = {each.model_type: each for each in (TinyConfig, OtherConfig)}


class TinyNetwork(nn.Module):
    """A network of `transformers`: its output is a mapping with `logits`, at stride 4."""

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.encoder = nn.Sequential(nn.Conv2d(3, config.width, 3, stride=4, padding=1), nn.BatchNorm2d(config.width))
        self.classifier = nn.Conv2d(config.width, config.num_labels, 1)

    def forward(self, images):
        return {"logits": self.classifier(self.encoder(images).relu())}


def read_config(folder, *, local_files_only, trust_remote_code):
    assert local_files_only
    assert not trust_remote_code
    values = json.loads((Path(folder) / "config.json").read_text())
    return CONFIGS[values.pop("model_type")](**values)


def from_pretrained(folder, *, dtype, local_files_only, trust_remote_code, output_loading_info):
    from safetensors.torch import load_file

    network = TinyNetwork(read_config(folder, local_files_only=local_files_only, trust_remote_code=trust_remote_code))
    given = load_file(Path(folder) / "model.safetensors")
    loading = network.load_state_dict(given, strict=False)
    return network.to(dtype), {"missing_keys": set(loading.missing_keys)}


def transformers():
    module = ModuleType("transformers")
    module.__file__ = __file__
    module.AutoConfig = SimpleNamespace(
        from_pretrained=read_config, for_model=lambda model_type, **values: CONFIGS[model_type](**values)
    )
    module.AutoModelForSemanticSegmentation = SimpleNamespace(
        from_config=lambda config, dtype: TinyNetwork(config).to(dtype), from_pretrained=from_pretrained
    )
    module.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING = {TinyConfig: TinyNetwork}
    module.logging = SimpleNamespace(set_verbosity_error=lambda: None, disable_progress_bar=lambda: None)
    return module


def huggingface_hub(cache):
    """The hub's client with a cache of its own: a folder for each owner and name, by revision."""

    def snapshot_download(name, *, revision, local_files_only):
        assert local_files_only
        if name.count("/") != 1:
            raise ValueError("Repo id must be in the form 'namespace/repo_name'")
        folder = Path(cache) / name.replace("/", "--") / (revision or "main")
        if not folder.is_dir():
            raise FileNotFoundError("not cached")
        return str(folder)

    module = ModuleType("huggingface_hub")
    module.__file__ = __file__
    module.snapshot_download = snapshot_download
    return module


def save_tiny(folder, names, *, seed=0):
    """A folder as `save_pretrained` makes it."""
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    network = TinyNetwork(TinyConfig(id2label=dict(enumerate(names))))
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(network.config.to_json_string(use_diff=False))
    save_file(network.state_dict(), folder / "model.safetensors")


class Encoder(nn.Module):
    """Five convolutions of stride 2; gives the last four maps, as an encoder of timm with `features_only`."""

    pretrained_cfg: ClassVar = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}

    def __init__(self, *, width=4, strides=(4, 8, 16, 32)):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else width, width, 3, 2, 1) for i in range(5))
        self.feature_info = SimpleNamespace(reduction=lambda: list(strides), channels=lambda: [width] * len(strides))

    def forward(self, images):
        maps = [images]
        for layer in self.layers:
            maps.append(layer(maps[-1]).relu())
        return maps[2:]


def weighted(module, value):
    """The module with all its weights at one value, as if they had been read."""
    with torch.no_grad():
        for each in module.parameters():
            each.fill_(value)
    return module


def timm(cached=("small",)):
    """With encoders `small`, `coarse` (no map at stride 4) and `other`, whose weights are not in the cache."""

    def create_model(name, *, pretrained, features_only, **options):
        assert features_only
        if name not in ("small", "coarse", "other"):
            raise RuntimeError(f"Unknown model ({name})")
        encoder = Encoder(strides=(8, 16, 32) if name == "coarse" else (4, 8, 16, 32), **options)
        if pretrained and name not in cached:
            raise FileNotFoundError("not cached")
        return weighted(encoder, 0.25) if pretrained else encoder

    module = ModuleType("timm")
    module.__file__ = __file__
    module.create_model = create_model
    return module


class Unet(nn.Module):
    """With arguments as segmentation_models_pytorch has them: what it does not know it ignores."""

    def __init__(
        self, encoder_name="resnet34", encoder_weights="imagenet", decoder_width=4, classes=1, activation=None, **kwargs
    ):
        super().__init__()
        if encoder_name not in ("resnet18", "resnet34"):
            raise KeyError(f"Wrong encoder name `{encoder_name}`")
        if encoder_weights not in (None, "imagenet"):
            raise FileNotFoundError("not cached")
        self.encoder = nn.Conv2d(3, 4, 3, stride=4, padding=1)
        if encoder_weights is not None:
            weighted(self.encoder, 0.25)
        self.decoder = nn.Conv2d(4, decoder_width, 1)
        self.segmentation_head = nn.Sequential(nn.Conv2d(decoder_width, classes, 1), nn.Upsample(scale_factor=4))

    def forward(self, images):
        return self.segmentation_head(self.decoder(self.encoder(images)).relu())


def segmentation_models_pytorch():
    module = ModuleType("segmentation_models_pytorch")
    module.__file__ = __file__
    module.Unet = Unet
    return module


class TwoScales(nn.Module):
    """As torchvision's LR-ASPP: two classifiers that are added, in a dict."""

    def __init__(self, classes, *, aux):
        super().__init__()
        self.backbone = nn.ModuleDict({"0": nn.Conv2d(3, 4, 3, stride=4, padding=1)})
        heads = {"low_classifier": nn.Conv2d(4, classes, 1), "high_classifier": nn.Conv2d(4, classes, 1)}
        self.classifier = nn.ModuleDict(heads)
        self.aux_classifier = nn.Sequential(nn.Conv2d(4, classes, 1)) if aux else None

    def forward(self, images):
        features = self.backbone["0"](images)
        out = {"out": self.classifier["low_classifier"](features) + self.classifier["high_classifier"](features)}
        return out if self.aux_classifier is None else {**out, "aux": self.aux_classifier(features)}


class NetworkWeights(enum.Enum):
    VOC = "network.pth"
    DEFAULT = "network.pth"
    url = property(lambda self: f"https://weights.example/{self.value}")
    meta = property(lambda self: {"categories": ["road", "traffic_light", "sky"]})


class BackboneWeights(enum.Enum):
    IMAGENET = "backbone.pth"
    DEFAULT = "backbone.pth"
    url = property(lambda self: f"https://weights.example/{self.value}")
    meta = property(lambda self: {"categories": ["tench"]})


def lraspp_tiny(*, weights=None, progress=True, num_classes=None, aux_loss=None, weights_backbone="DEFAULT", **kwargs):
    assert weights is None
    assert weights_backbone is None
    return TwoScales(num_classes, aux=aux_loss)


def torchvision():
    models = SimpleNamespace(
        segmentation="segmentation",
        list_models=lambda module: ["lraspp_tiny"],
        get_model=lambda name, **options: lraspp_tiny(**options),
        get_model_builder=lambda name: lraspp_tiny,
        get_model_weights=lambda name: {"lraspp_tiny": NetworkWeights, "tiny": BackboneWeights}[name],
    )
    module = ModuleType("torchvision")
    module.__file__ = __file__
    module.models = models
    return module
