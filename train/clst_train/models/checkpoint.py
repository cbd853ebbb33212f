"""Checkpoints: plain tensors and plain values, loadable with `weights_only`, written whole."""

from __future__ import annotations

import dataclasses
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clst_runtime.artifact.manifest import Manifest, channels, input_size
from clst_runtime.classes.labels import ClassList
from clst_runtime.data.inputs import place_name
from clst_runtime.errors import ClstError, ConfigError, MissingDependency, ModelFileError
from clst_runtime.imaging.geometry import Fit, fit_named
from clst_runtime.system.files.atomic import written_whole
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.json_values import (
    field,
    mapping,
    name,
    number,
    one_of,
    optional,
    or_none,
    printable,
    sha256,
    shown,
    whole,
)
from clst_runtime.system.files.paths import check_file
from clst_runtime.system.numbers import LARGEST_INTEGER
from clst_train.config import ORDERS
from clst_train.models.failures import reason
from clst_train.models.networks import build_segmenter
from clst_train.models.normalisation import Normalisation
from clst_train.models.segmenter import Segmenter

FORMAT = "clst-checkpoint-1"
TRAINING = {"source": "source_training", "adapted": "adaptation"}
"""Of each stage, the key of what its training was."""


@dataclass(frozen=True, kw_only=True)
class WeightsFile:
    """A file of another project that a network's weights came from."""

    name: str
    """Of the file, without its folder."""
    sha256: str
    """Of its content."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A trained network, and in a resume file all that training needs to resume."""

    network: str
    """Its name, as `build_segmenter` takes it."""
    architecture: dict[str, Any] | None = None
    """What a network's library needs to build it again, in plain values; None where the name says all."""
    classes: ClassList
    """Its classes in the order of their ids."""
    input_hw: tuple[int, int]
    """Rows and columns of its input."""
    mean: tuple[float, float, float]
    """Per-channel mean on the 0–255 scale, in the network's order of channels."""
    std: tuple[float, float, float]
    """Per-channel standard deviation on the 0–255 scale."""
    channels: str = "rgb"
    """The network's order of channels, `rgb` or `bgr`."""
    stage: str
    """`source` or `adapted`."""
    iteration: int
    """Steps of this stage behind it."""
    segmenter_state: dict[str, Tensor]
    """Parameters and statistics of F, C and the auxiliary head; never of the projection head."""
    training_state: dict[str, Any] | None = None
    """Optimiser, projection head, prototypes, the name of the ensemble's snapshot; only in a resume file."""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    """The run's configuration."""
    weights_file: WeightsFile | None = None
    """Where the old network came from; None where this project trained it."""
    pretrained_sha256: str = ""
    """Of the file of weights that source training started from; empty = random weights, or not known."""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What its run says of images, steps and mIoU, a line of text each; older checkpoints have none."""
    temperature: float = 1.0
    """By how much its logits are divided for the confidence; 1 where nothing was fitted."""
    path: Path | None = None
    """The file that it was read from; None for one in memory."""

    @property
    def sha256(self) -> str:
        """SHA-256 of that file; zeros for one in memory."""
        return "0" * 64 if self.path is None else file_sha256(self.path)

    @property
    def head(self) -> str:
        """Path of the network's classifier layer, where a setting named it."""
        return str(self.config.get("model", {}).get("head", ""))

    @property
    def provenance(self) -> dict[str, str]:
        """What the network and its weights came from, as far as is known; it goes into manifests."""
        origin, data = self.architecture or {}, self.config.get("data", {})
        known = {
            "source": place_name(data["source"]) if data.get("source") else "",
            "target": printable(", ".join(map(place_name, data.get("target", [])))) if self.stage == "adapted" else "",
            TRAINING[self.stage]: f"{self.iteration} steps" if self.iteration else "",
            "head": self.head,
            "package": printable(f"{origin['package']} {origin.get('version', '')}") if "package" in origin else "",
            "pretrained_sha256": self.pretrained_sha256,
            "weights_file": self.weights_file.name if self.weights_file else "",
            "weights_sha256": self.weights_file.sha256 if self.weights_file else "",
        }
        return {key: value for key, value in known.items() if value} | dict(self.facts)

    def manifest(self, input_hw: tuple[int, int] | None = None) -> Manifest:
        """What a model file of this network says of it, at its own input size or another.

        Raises:
            ModelFileError: as `fit`.
        """
        return Manifest(
            network=self.network,
            provenance=self.provenance,
            input_hw=input_hw or self.input_hw,
            fit=self.fit,
            mean=self.mean,
            std=self.std,
            channels=self.channels,
            classes=self.classes,
            temperature=self.temperature,
            source_checkpoint_sha256=self.sha256,
        )

    @property
    def fit(self) -> Fit:
        """How its frames are brought to `input_hw`; older checkpoints without the setting stretch.

        Raises:
            ModelFileError: the configuration names an unknown one.
        """
        try:
            return fit_named(self.config.get("model", {}).get("fit", Fit.STRETCH.value))
        except ValueError as error:
            raise ModelFileError(f"checkpoint: model.{error}; a newer version of clst may have made it") from error


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all.

    Raises:
        DataError: the folder cannot be written or the disk is full.
    """
    content = {
        "format": FORMAT,
        "network": checkpoint.network,
        "architecture": checkpoint.architecture,
        "classes": checkpoint.classes.to_json(),
        "input_hw": list(checkpoint.input_hw),
        "mean": list(checkpoint.mean),
        "std": list(checkpoint.std),
        "channels": checkpoint.channels,
        "stage": checkpoint.stage,
        "iteration": checkpoint.iteration,
        "segmenter_state": checkpoint.segmenter_state,
        "training_state": checkpoint.training_state,
        "config": checkpoint.config,
        "weights_file": None if checkpoint.weights_file is None else dataclasses.asdict(checkpoint.weights_file),
        "pretrained_sha256": checkpoint.pretrained_sha256,
        "facts": dict(checkpoint.facts),
        "temperature": checkpoint.temperature,
    }
    with written_whole(path) as temporary:
        try:
            torch.save(content, temporary)
        except RuntimeError as error:  # PyTorch reports a full disk so
            raise OSError(f"PyTorch could not write it ({str(error).splitlines()[0]}); is the disk full?") from error


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint; nothing in the file is executed.

    Raises:
        ModelFileError: missing, damaged, or not a checkpoint of this project.
    """
    check_file(path, "checkpoint", ModelFileError)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except (
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
        LookupError,
        pickle.UnpicklingError,
        zipfile.BadZipFile,
    ) as error:
        if isinstance(error, pickle.UnpicklingError) and "weights_only" in str(error):
            raise ModelFileError(
                f"{path} holds Python objects, as torch.save(network) writes them, which could run any program when "
                "they are read; give a checkpoint of clst-train"
            ) from error
        raise ModelFileError(f"{path} is damaged or no PyTorch checkpoint ({reason(error)})") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ModelFileError(f"{path}: checkpoint format {found!r}, expected {FORMAT!r}; train it with clst-train")
    try:
        return Checkpoint(
            network=field(content, "network", name),
            architecture=optional(content, "architecture", or_none(mapping)),
            classes=ClassList.from_json(field(content, "classes", mapping), name=path.stem),
            input_hw=field(content, "input_hw", input_size),
            mean=field(content, "mean", channels()),
            std=field(content, "std", channels(0.0)),
            channels=optional(content, "channels", one_of(*ORDERS)) or "rgb",
            stage=field(content, "stage", one_of("source", "adapted")),
            iteration=field(content, "iteration", whole(0, LARGEST_INTEGER)),
            segmenter_state=field(content, "segmenter_state", _weights),
            training_state=field(content, "training_state", or_none(mapping)),
            config=field(content, "config", _config),
            weights_file=optional(content, "weights_file", or_none(_weights_file)),
            pretrained_sha256=_pretrained(content),
            facts=optional(content, "facts", _facts) or {},
            temperature=optional(content, "temperature", number(0.0)) or 1.0,
            path=path,
        )
    except (ValueError, ClstError) as error:
        raise ModelFileError(f"{path}: the checkpoint is damaged ({error}); train it again") from error


def _weights(value: Any) -> dict[str, Tensor]:
    if not isinstance(value, dict) or not all(isinstance(each, Tensor) for each in value.values()):
        raise ValueError(f"{type(value).__name__}, expected the network's tensors")
    return value


def _weights_file(value: Any) -> WeightsFile:
    return WeightsFile(name=field(mapping(value), "name", name), sha256=field(mapping(value), "sha256", sha256))


def _facts(value: Any) -> dict[str, str]:
    return {key: field(value, key, name) for key in mapping(value)}


def _pretrained(content: dict[str, Any]) -> str:
    """The hash, which older versions wrote into the configuration, where `_config` has checked it."""
    older = str(content["config"].get("model", {}).get("pretrained_sha256", ""))
    return older if content.get("pretrained_sha256", "") == "" else field(content, "pretrained_sha256", sha256)


def _config(value: Any) -> dict[str, Any]:
    """Sections of settings; of them the places of the target and what the network came from are read again."""
    sections = mapping(value)
    for section in sections:
        field(sections, section, mapping)
    for key, check in (("head", name), ("pretrained_sha256", sha256)):
        if sections.get("model", {}).get(key, "") != "":
            field(sections["model"], key, check)
    data = sections.get("data", {})
    source, target = data.get("source", ""), data.get("target", [])
    if not isinstance(source, str):
        raise ValueError(f"{shown(source)} in data.source, expected a place")
    if not isinstance(target, (list, tuple)) or not all(isinstance(place, str) for place in target):
        raise ValueError(f"{shown(target)} in data.target, expected places")
    return sections


def build_from_checkpoint(checkpoint: Checkpoint) -> Segmenter:
    """The network with the checkpoint's weights, in eval mode, on the CPU.

    Raises:
        ModelFileError: the network cannot be built here, or the weights do not fit it.
        MissingDependency: its package is not installed here.
    """
    where = checkpoint.path or "checkpoint"
    try:
        segmenter = build_segmenter(
            checkpoint.network, len(checkpoint.classes), head=checkpoint.head, architecture=checkpoint.architecture
        )
    except MissingDependency as error:
        raise MissingDependency(f"{where}: {error.message}") from error
    except ConfigError as error:
        raise ModelFileError(f"{where}: its network cannot be built: {error.message}") from error
    try:
        segmenter.load_state_dict(checkpoint.segmenter_state)
    except RuntimeError as error:
        changed = _changed_since(checkpoint.architecture, getattr(segmenter, "architecture", None))
        raise ModelFileError(
            f"{where}: weights do not fit {checkpoint.network} with {len(checkpoint.classes)} classes{changed}: "
            f"{_differences(checkpoint.segmenter_state, segmenter.state_dict()) or str(error).splitlines()[-1][:160]}"
        ) from error
    segmenter.normalisation = Normalisation(checkpoint.mean, checkpoint.std, checkpoint.channels)
    segmenter.temperature = checkpoint.temperature
    return segmenter.eval()


def _changed_since(before: Mapping[str, Any] | None, now: Mapping[str, Any] | None) -> str:
    """The versions of a network's package, where they differ; else, of a network that is not built in, a hint."""
    versions = [f"{each['package']} {each.get('version')}" for each in (before, now) if each and "package" in each]
    if len(set(versions)) == 2:
        return f" (trained with {versions[0]}, here is {versions[1]})"
    return " (its code has changed since it was trained)" if now is not None else ""


def _differences(given: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> str:
    """Tensors of a checkpoint and of a network that differ in name or shape, each kind with its first ones."""
    found = {
        "only in the checkpoint": [key for key in given if key not in own],
        "only in the network": [key for key in own if key not in given],
        "of another shape": [
            f"{key} (trained {_by(given[key])}, here {_by(own[key])})"
            for key in own
            if key in given and given[key].shape != own[key].shape
        ],
    }
    return "; ".join(
        f"{kind}: {', '.join(keys[:3])}{f' and {len(keys) - 3} more' if len(keys) > 3 else ''}"
        for kind, keys in found.items()
        if keys
    )


def _by(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one value"
