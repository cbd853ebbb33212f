"""Networks of Hugging Face transformers: `hf:OWNER/NAME`, from the hub's local cache, or `hf:FOLDER`.

Nothing is downloaded: what is not in the cache is fetched beforehand by the hub's own command.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from clst_runtime.errors import ConfigError, ModelFileError
from clst_runtime.system.files.json_values import number, read_json_object, several
from clst_train.models.adapters.library import LibraryWeights, called, import_library, library_of
from clst_train.models.failures import first_line
from clst_train.models.normalisation import Normalisation
from clst_train.models.specification import NetworkName
from clst_train.models.weights.files import Weights

MODULE = "transformers"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")
CONFIG = "config.json"


def build(
    name: NetworkName, class_count: int, architecture: Mapping[str, Any] | None
) -> tuple[nn.Module, dict[str, Any]]:
    """The network with random weights and a classifier of C classes.

    Args:
        name: `hf:OWNER/NAME` or `hf:FOLDER`, with `?revision=…` where another than the main one is meant.
        class_count: C.
        architecture: the configuration as a checkpoint has it; None = read it from the cache or the folder.

    Returns:
        The network, and its configuration in plain values with the library's version.

    Raises:
        ModelFileError: the configuration is not on this machine. ConfigError: it is of no network that segments.
        MissingDependency: transformers is not installed.
    """
    transformers = import_library(MODULE)
    if architecture is None:
        folder = folder_of(name)
        config = called(
            name,
            "cannot be built",
            lambda: transformers.AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False),
        )
    else:
        known = {key: value for key, value in architecture.items() if key not in library_of(MODULE)}
        config = called(name, "cannot be built", lambda: transformers.AutoConfig.for_model(**known))
    if getattr(config, "use_pretrained_backbone", False):
        config.use_pretrained_backbone = False  # it would be fetched; the weights bring the backbone's
    if class_count != config.num_labels:
        config.num_labels = class_count
    network = called(name, "cannot be built", lambda: _from_config(name, transformers, config))
    return network, json.loads(config.to_json_string(use_diff=False)) | library_of(MODULE)


def _from_config(name: NetworkName, transformers: Any, config: Any) -> nn.Module:
    known = transformers.MODEL_FOR_SEMANTIC_SEGMENTATION_MAPPING
    if type(config) not in known:
        kinds = ", ".join(sorted({each.model_type for each in known}))
        raise ConfigError(
            f"{name.text} is of the kind {config.model_type!r}, which returns no logits NxCxhxw; transformers has such "
            f"networks of the kinds {kinds}"
        )
    models = transformers.AutoModelForSemanticSegmentation
    return models.from_config(config, dtype=torch.float32)  # type: ignore[no-any-return]


def read(name: NetworkName, folder: Path | None = None) -> LibraryWeights:
    """The weights of the folder that the name means, or of this one, with the classes that its configuration names.

    transformers renames tensors as it reads them, so that files of older versions fit.

    Raises:
        ModelFileError: they are not on this machine, or damaged.
    """
    transformers, folder = import_library(MODULE), folder or folder_of(name)
    transformers.logging.set_verbosity_error()  # what is missing is reported by us
    transformers.logging.disable_progress_bar()
    files = [folder / each for each in (*WEIGHTS, *(f"{each}.index.json" for each in WEIGHTS))]
    file = next((each for each in files if each.is_file()), None)
    if file is None:
        raise ModelFileError(f"{name.text}: {folder} has no {WEIGHTS[0]}; {_hint(name)}, or --pretrained none")
    try:
        network, loading = transformers.AutoModelForSemanticSegmentation.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, trust_remote_code=False, output_loading_info=True
        )
    except Exception as error:
        raise ModelFileError(f"{file} cannot be read ({first_line(error)}); {_hint(name)}") from error
    missing = {str(each) for each in loading["missing_keys"]}
    tensors = {key: value for key, value in network.state_dict().items() if key not in missing}
    names = [str(network.config.id2label.get(index)) for index in range(network.config.num_labels)]
    named = None if all(each == f"LABEL_{index}" for index, each in enumerate(names)) else tuple(names)
    return LibraryWeights(
        weights=Weights(path=file, tensors=tensors, classes=named),
        file=file if file.name in WEIGHTS else None,
        normalisation=_normalisation(folder / "preprocessor_config.json"),
    )


def folder_of(name: NetworkName) -> Path:
    """The folder that a name means: itself, or that of the hub's cache.

    Raises:
        ModelFileError: there is none, or it has no configuration.
        ConfigError: an option beside `revision`, or no name of the hub's.
    """
    other = next((option for option in name.options if option != "revision"), None)
    if other is not None:
        raise ConfigError(f"{name.text}: {other!r} is no option here; ?revision=… is the only one")
    folder = Path(name.name).expanduser()
    if not (folder.is_dir() or name.name.startswith(("/", ".", "~"))):
        folder = _cached(name)
    if not (folder / CONFIG).is_file():
        raise ModelFileError(f"{name.text}: there is no {folder / CONFIG}; {_hint(name)}")
    return folder


def _cached(name: NetworkName) -> Path:
    hub = import_library("huggingface_hub")
    revision = name.options.get("revision")
    try:
        return Path(hub.snapshot_download(name.name, revision=revision and str(revision), local_files_only=True))
    except ValueError as error:
        raise ConfigError(f"{name.text} names neither a folder nor OWNER/NAME ({first_line(error)})") from error
    except OSError as error:
        raise ModelFileError(f"{name.text} is not in the hub's cache here; {_hint(name)}") from error


def _hint(name: NetworkName) -> str:
    revision = f" --revision {name.options['revision']}" if "revision" in name.options else ""
    folder = f"give hf:FOLDER with {CONFIG} and {WEIGHTS[0]}"
    if Path(name.name).is_dir() or name.name.startswith(("/", ".", "~")):
        return folder
    return f"fetch it once by 'hf download {name.name}{revision}', or {folder}"


def _normalisation(file: Path) -> Normalisation | None:
    """Of a preprocessor's configuration: it scales to 0–1 first, then subtracts the mean and divides."""
    values = read_json_object(file) if file.is_file() else {}
    if not values.get("do_normalize", bool(values)):
        return None
    scale = values.get("rescale_factor", 1 / 255) if values.get("do_rescale", True) else 1
    try:
        mean, std = (
            several(3, number())([each / scale for each in values[key]]) for key in ("image_mean", "image_std")
        )
    except (LookupError, TypeError, ValueError, ZeroDivisionError) as error:
        raise ModelFileError(f"{file}: no usable image_mean and image_std ({error})") from error
    return Normalisation(mean, std)  # type: ignore[arg-type]
