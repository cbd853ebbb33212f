"""A checkpoint as a runtime backend: PyTorch computes the very function that is exported.

Legend: H rows, W columns of the model's input.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch
from torch import nn

from clst_runtime.artifact.manifest import Manifest
from clst_runtime.backends.base import Frame, Prediction, check_frame
from clst_runtime.classes.labels import ClassList
from clst_runtime.imaging.geometry import Fit
from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint
from clst_train.models.deployable import Deployable
from clst_train.models.segmenter import Segmenter


class TorchBackend:
    """A deployable network in PyTorch, numpy in and numpy out."""

    def __init__(self, deployable: nn.Module, manifest: Manifest, device: torch.device) -> None:
        self._deployable = deployable.to(device).eval()
        self.manifest, self._device = manifest, device
        self.description = f"PyTorch {torch.__version__} on {device}"

    @torch.inference_mode()
    def predict(self, frame: Frame) -> Prediction:
        """Segment one RGB frame H,W,3 uint8 of exactly the manifest's input size."""
        check_frame(frame, self.manifest.input_hw)
        output = self._deployable(torch.from_numpy(frame.copy())[None].to(self._device))
        if not isinstance(output, tuple):
            return Prediction(classes=output[0].cpu().numpy())
        classes, confidence = (each[0].cpu().numpy() for each in output)
        return Prediction(classes=classes, confidence=confidence)

    def close(self) -> None:
        """Nothing is held beyond memory."""

    def __enter__(self) -> TorchBackend:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


def segmenter_backend(
    segmenter: Segmenter,
    *,
    network: str,
    classes: ClassList,
    input_hw: tuple[int, int],
    fit: Fit = Fit.STRETCH,
    sha256: str = "0" * 64,
    with_confidence: bool = False,
) -> TorchBackend:
    """A network in memory as a backend (it is copied); used by validation while training."""
    device = next(segmenter.parameters()).device
    manifest = Manifest(
        network=network,
        input_hw=input_hw,
        fit=fit,
        **dataclasses.asdict(segmenter.normalisation),
        classes=classes,
        has_confidence=with_confidence,
        temperature=segmenter.temperature,
        source_checkpoint_sha256=sha256,
        tool_versions={"torch": torch.__version__},
    )
    deployable = Deployable(segmenter, input_hw, with_confidence=with_confidence)
    return TorchBackend(deployable, manifest, device)


def open_checkpoint(
    path: Path, *, input_hw: tuple[int, int] | None = None, device: torch.device | None = None
) -> TorchBackend:
    """Open a checkpoint as a backend (the entry point `clst.backends: pt`), with confidence.

    Args:
        path: a checkpoint of clst-train.
        input_hw: another input size than the one it was trained at.
        device: where it runs; None = on the CPU.

    Raises:
        ModelFileError: damaged or not a checkpoint.
    """
    checkpoint = load_checkpoint(path)
    return segmenter_backend(
        build_from_checkpoint(checkpoint).to(device),
        network=checkpoint.network,
        classes=checkpoint.classes,
        input_hw=input_hw or checkpoint.input_hw,
        fit=checkpoint.fit,
        sha256=checkpoint.sha256,
        with_confidence=True,
    )
