"""Stand-ins for libraries of networks, with no more of their interfaces than this project calls."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

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
