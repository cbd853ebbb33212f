"""The network of the old camera that a run starts from: a checkpoint of training, or weights that others trained."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from clst_runtime.classes.labels import load_class_list
from clst_runtime.data.dataset import LabelledDataset
from clst_runtime.data.subsets import evenly_spread
from clst_runtime.errors import ConfigError
from clst_runtime.evaluation.confusion import ConfusionMatrix
from clst_runtime.evaluation.evaluate import predict_at
from clst_runtime.system.files.hashing import file_sha256
from clst_runtime.system.files.json_values import printable
from clst_runtime.system.files.paths import is_checkpoint
from clst_train.compute.distributed import report
from clst_train.config import Config
from clst_train.engine.run import SOURCE
from clst_train.models.adapters import huggingface
from clst_train.models.adapters.library import LibraryWeights
from clst_train.models.checkpoint import Checkpoint, WeightsFile, build_from_checkpoint, load_checkpoint
from clst_train.models.checkpoint_backend import segmenter_backend
from clst_train.models.networks import network_of
from clst_train.models.specification import parse_network
from clst_train.models.weights.files import read_weights
from clst_train.models.weights.fitting import check_complete, fit_weights
from clst_train.models.weights.pretrained import normalisation_note

_log = logging.getLogger(__name__)
TRIED_IMAGES = 8
"""Labelled images that foreign weights are tried on."""


def open_old_network(path: Path, config: Config, *, trust_pickle: bool = False) -> Checkpoint:
    """Read the old network; of weights that others trained a line reports what was loaded, another one the classes.

    Args:
        path: a checkpoint of training, or a file of weights for `config.model.network`.
        config: the run's; of foreign weights it says network, classes and input size.
        trust_pickle: see `read_weights`.

    Raises:
        ConfigError: no classes are given for foreign weights, or they are not the file's.
        ModelFileError: the file is damaged, or holds no whole network of that kind.
        MissingDependency: the package safetensors is not installed.
    """
    if is_checkpoint(path):
        return load_checkpoint(path)
    model, found = config.model, _weights(path, config.model.network, trust_pickle=trust_pickle)
    weights = found.weights
    if not model.classes:
        named = f"; the file names {', '.join(weights.classes)}" if weights.classes else ""
        raise ConfigError(
            f"what the class ids of {path} mean has to be said: give --classes, a shipped list or a JSON file, in the "
            f"order of its ids{named}"
        )
    classes = load_class_list(model.classes)
    torch.manual_seed(config.run.seed)  # for an auxiliary head that the file lacks
    network = network_of(model, len(classes))
    loaded = fit_weights(network, weights)
    hint = f"start source training from these weights: --pretrained {path} in the place of --init"
    check_complete(loaded, model.network, classes, hint=hint)
    report(loaded.line())
    if note := normalisation_note(found.normalisation, network.normalisation):
        report(note)
    named = "as the file names them" if loaded.classes else "the file does not name them, so this is not checked"
    report(f"class ids 0 to {len(classes) - 1} of {path.name} are taken as {', '.join(classes.names)} ({named})")
    return Checkpoint(
        network=model.network,
        architecture=getattr(network, "architecture", None),
        classes=classes,
        input_hw=model.input_hw,
        **dataclasses.asdict(network.normalisation),
        stage=SOURCE,
        iteration=0,
        segmenter_state=network.state_dict(),
        config=config.to_mapping(),
        weights_file=WeightsFile(name=printable(path.name), sha256=file_sha256(path)),
    )


def _weights(path: Path, network: str, *, trust_pickle: bool) -> LibraryWeights:
    name = parse_network(network)
    if name.library == "hf" and path.name in huggingface.WEIGHTS and path.with_name(huggingface.CONFIG).is_file():
        return huggingface.read(name, path.parent)
    return LibraryWeights(weights=read_weights(path, trust_pickle=trust_pickle))


def report_on_source(started: Checkpoint, source: LabelledDataset, device: torch.device) -> None:
    """Report the mIoU of foreign weights on a few images of the old camera, and classes that seem to be exchanged.

    Nothing else shows an order of classes, or a normalisation, that is not the file's.
    """
    backend = segmenter_backend(
        build_from_checkpoint(started).to(device),
        network=started.network,
        classes=started.classes,
        input_hw=started.input_hw,
        fit=started.fit,
    )
    confusion = ConfusionMatrix(len(started.classes))
    indices = evenly_spread(len(source), TRIED_IMAGES, centred=True)
    for index in indices:
        sample = source[index]
        confusion.update(sample.labels, predict_at(backend, sample.image))
    report(
        f"old network: {100 * confusion.miou():.1f} mIoU on {len(indices)} images of the old camera; if you know it "
        "for more, look at --classes, --size and the normalisation"
    )
    names = started.classes.names
    exchanged = [f"{names[label]} where it says {names[said]}" for said, label in exchanged_classes(confusion.matrix)]
    if exchanged:
        _log.warning(f"the labels say {', '.join(exchanged)}; is --classes in the order of the file's ids?")


def exchanged_classes(counts: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Classes that a network confuses as if their order were another one: its id, and that of most labels there.

    More than half of the pixels that get an id carry one other label, and the pixels that get that label's id carry
    mostly a third one (or the first). A weak network mistakes rare classes for common ones, which is not this.

    Args:
        counts: C,C of pixels (truth, prediction).
    """
    predicted = counts.sum(axis=0)
    mostly = {
        said: int(counts[:, said].argmax())
        for said in range(len(counts))
        if predicted[said] and 2 * counts[:, said].max() > predicted[said]
    }
    return [(said, label) for said, label in mostly.items() if label != said and mostly.get(label, label) != label]
