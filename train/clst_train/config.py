"""Training settings: frozen dataclasses, checked where they are defined; `recipes/recipe.py` reads them from TOML.

Order of precedence: the defaults here < the recipe < `--set section.key=value` < the command's own options.
Constants of the method are this project's choice, chosen by measurement (docs/method.md).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from clst_runtime.errors import ConfigError
from clst_runtime.imaging.geometry import Fit, fit_named
from clst_runtime.system.numbers import LARGEST_SIDE, MOST_THREADS

NETWORKS = (
    "ddrnet23_slim",
    "deeplabv2_resnet101",
    "efficientnet_lite0",
    "efficientnet_lite1",
    "efficientnet_lite2",
)
MEAN = (123.675, 116.28, 103.53)  # ImageNet, 0–255 scale, RGB
STD = (58.395, 57.12, 57.375)
ORDERS = ("rgb", "bgr")
CROP_SHARE = 0.8
"""Of the input's rows and columns in a crop: two views of an image differ, and most of it is in both."""


Bound = tuple[Callable[[Any], bool], str]
"""Whether a value can be used, and what to give instead."""
_ABOVE_0: Bound = (lambda value: value > 0, "a positive number")
_FROM_0: Bound = (lambda value: value >= 0, "0 or more")
_FROM_1: Bound = (lambda value: value >= 1, "1 or more")
_SHARE: Bound = (lambda value: 0 <= value <= 1, "0 to 1")
_PROBABILITY: Bound = (_SHARE[0], "a probability")
_BELOW_1: Bound = (lambda value: 0 <= value < 1, "0 up to below 1")
_SIDES: Bound = (lambda size_hw: max(size_hw) <= LARGEST_SIDE, f"rows and columns up to {LARGEST_SIDE}")


def _one_of(known: tuple[str, ...]) -> Bound:
    return lambda value: value in known, f"{', '.join(known[:-1])} or {known[-1]}"


def _check(section: object, where: str, *rules: tuple[str, Callable[[Any], bool], str]) -> None:
    """Refuse a section by rules: names of settings, whether a value can be used, what to give instead."""
    for names, can_be_used, hint in rules:
        for name in names.split():
            value = getattr(section, name)
            if not can_be_used(value):
                shown = list(value) if isinstance(value, tuple) else value
                raise ConfigError(f"{where}.{name} = {shown!r}; give {hint}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data sets: places, splits, classes."""

    source: str = ""
    """Folder of the labelled old camera."""
    source_split: str = "train"
    """Which of its splits to train on."""
    mapping: str = ""
    """JSON file that relates the source's classes to the model's; empty = by equal names."""
    target: tuple[str, ...] = ()
    """Image folders or video files of the new camera, never labels; long videos give at most 3000 frames together."""
    ignore_mask: str = ""
    """PNG of the new camera's size; non-zero pixels (bonnet, lens border) are never learned from."""
    val: str = ""
    """Labelled images to report mIoU on while training; never used to choose a checkpoint."""
    val_split: str = "val"
    """Which of their splits."""
    val_mapping: str = ""
    """JSON file that relates their classes to the model's."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and what it segments."""

    network: str = "ddrnet23_slim"
    """`ddrnet23_slim`, `efficientnet_lite0`, `efficientnet_lite1`, `efficientnet_lite2` (real time),
    `deeplabv2_resnet101` (the literature's), your own as `package.module:factory`, or another library's as
    `hf:OWNER/NAME` (docs/networks.md)."""
    head: str = ""
    """Path of the classifier layer of a network that is not built in; empty = it is found by itself."""
    classes: str = ""
    """A shipped class list or a JSON file; empty = those of the source data set."""
    input_hw: tuple[int, int] = (360, 480)
    """Rows and columns, in pixels, that frames are resized to, in training, export and driving alike."""
    mean: tuple[float, float, float] = MEAN
    """What is subtracted from a frame's channels, on the 0–255 scale and in the network's order of channels."""
    std: tuple[float, float, float] = STD
    """What they are divided by then, on the same scale and in the same order."""
    channels: str = "rgb"
    """The order of channels that the network takes, `rgb` or `bgr`; frames of any camera are brought to it."""
    fit: str = "stretch"
    """How frames are resized: `stretch` fills rows and columns, `letterbox` keeps shapes and leaves bars."""
    pretrained: str = "auto"
    """What source training starts from: `auto` = the network's ImageNet weights where the extra `weights` brings them,
    those that another library's name means, else random ones; `none` = random ones; or a file with a state dict."""

    def __post_init__(self) -> None:
        _check(
            self,
            "model",
            ("input_hw", lambda size: len(size) == 2 and min(size) >= 32, "rows and columns of at least 32"),
            ("input_hw", *_SIDES),
            ("mean", lambda mean: min(mean) >= 0 and max(mean) <= 255, "three numbers from 0 to 255"),
            ("std", lambda std: min(std) > 0, "three positive numbers, on the 0–255 scale"),
            ("channels", *_one_of(ORDERS)),
            ("fit", *_one_of(tuple(fit.value for fit in Fit))),
            ("pretrained", lambda value: value != "", "auto, none or a file of weights"),
        )
        for name, values, below_1 in (
            ("mean", self.mean, 0 < max(self.mean) <= 1),
            ("std", self.std, max(self.std) < 1),
        ):
            if below_1:
                raise ConfigError(
                    f"model.{name} = {list(values)} looks like the 0–1 scale; on the 0–255 scale it is "
                    f"{[round(255 * value, 3) for value in values]}"
                )


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Supervised training on the old camera."""

    iterations: int = 4000
    """Optimiser steps."""
    batch: int = 8
    """Images a step."""
    learning_rate: float = 1e-3
    """Peak of the AdamW learning rate; linear warm-up, then polynomial decay."""

    def __post_init__(self) -> None:
        _check(
            self,
            "source",
            ("iterations batch", *_FROM_1),
            ("learning_rate", *_ABOVE_0),
        )


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """CLST on the new camera: L = CE(source) + λ_ST · CE(target, pseudo-labels) + λ_CL · L_CL."""

    iterations: int = 2000
    """Optimiser steps."""
    batch: int = 4
    """Source images and target images a step, each."""
    learning_rate: float = 3e-4
    """Peak of the AdamW learning rate."""
    self_training_weight: float = 1.0
    """λ_ST."""
    contrastive_weight: float = 0.1
    """λ_CL."""
    ensemble_momentum: float = 0.9
    """α of the temporal ensemble, per visit of an image."""
    class_mix: bool = True
    """Paste half of a source image's classes into the target image (ClassMix)."""
    teacher: str = "ensemble"
    """Where pseudo-labels come from: `ensemble` (the method), `mean_teacher` (what the averaged weights predict now) or
    `none`."""
    entropy_first: float = 0.0
    """Fraction of the steps, at the start, in which target images only minimise their predictions' entropy;
    pseudo-labels come after them."""
    class_balance: float = 0.0
    """Exponent γ: a target pixel of class c weighs max(its share in the batch, 1 %)^−γ; 0 = all alike."""

    def __post_init__(self) -> None:
        _check(
            self,
            "adaptation",
            ("iterations", *_FROM_0),
            ("batch", *_FROM_1),
            ("learning_rate", *_ABOVE_0),
            ("ensemble_momentum", *_BELOW_1),
            ("entropy_first", *_PROBABILITY),
            ("self_training_weight contrastive_weight class_balance", *_FROM_0),
            ("teacher", *_one_of(("ensemble", "mean_teacher", "none"))),
        )
        for name in ("self_training_weight", "contrastive_weight"):
            if self.teacher == "none" and getattr(self, name) != 0:
                raise ConfigError(
                    f"adaptation.{name} = {getattr(self, name)} needs pseudo-labels, but adaptation.teacher is none; "
                    f"set {name} to 0, or teacher to ensemble"
                )


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How training images are augmented."""

    crop_hw: tuple[int, int] = (0, 0)
    """Rows and columns of a training crop, in pixels; [0, 0] = 0.8 of the model's input size, in multiples of 32."""
    scale: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest factor of the random zoom."""
    colour: float = 0.25
    """Strength of changes of brightness, contrast, saturation and colour balance, twice that in source training; 0 =
    none, and no blur."""
    target_look: bool = False
    """Show source images in the adaptation as the new camera would take them: with its blur, its noise and, where they
    differ, the colours of a target image."""

    def __post_init__(self) -> None:
        _check(
            self,
            "augmentation",
            ("scale", lambda s: 0.05 <= s[0] <= s[1] <= 20, "a smallest and a largest zoom, from 0.05 to 20"),
            ("colour", lambda strength: 0 <= strength < 0.5, "0 up to below 0.5"),
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Device, threads, precision and checkpoints of a run."""

    seed: int = 1
    """Seed of everything random."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` takes CUDA when there is one."""
    precision: str = "auto"
    """`fp32`, `bf16`, `fp16` (with loss scaling), or `auto`: bf16 on a GPU that computes it natively, else fp32."""
    deterministic: bool = False
    """On CUDA, use algorithms that give the same bits each time, so that a resumed run equals an unbroken one; slow. A
    CPU always does."""
    compile: bool = False
    """Compile the network's passes with `torch.compile`; needs a C++ compiler, and minutes at the start."""
    threads: int = 0
    """CPU threads; 0 = PyTorch's choice."""
    checkpoint_every: int = 500
    """Steps between two checkpoints to resume from, and two validations where `data.val` is given."""
    gate: bool = False
    """End with exit code 6 where the adapted network is worse than the old one on `data.val`."""

    def __post_init__(self) -> None:
        _check(
            self,
            "run",
            ("precision", *_one_of(("auto", "fp32", "bf16", "fp16"))),
            ("checkpoint_every", *_FROM_1),
            ("threads seed", *_FROM_0),
            ("threads", lambda count: count <= MOST_THREADS, f"{MOST_THREADS} at most"),
        )


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole training run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    source: SourceConfig = field(default_factory=SourceConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        crop, whole = self.crop_hw, self.model.input_hw
        if crop[0] > whole[0] or crop[1] > whole[1]:
            raise ConfigError(
                f"augmentation.crop_hw = {list(crop)} is larger than model.input_hw = {list(whole)}; give less, "
                "or [0, 0]"
            )

    @property
    def crop_hw(self) -> tuple[int, int]:
        """Rows and columns of a training crop."""
        if min(self.augmentation.crop_hw) > 0:
            return self.augmentation.crop_hw
        rows, columns = (min(size, max(32, 32 * round(CROP_SHARE * size / 32))) for size in self.model.input_hw)
        return rows, columns

    @property
    def fit(self) -> Fit:
        """How images of another size are resized to `model.input_hw`."""
        return fit_named(self.model.fit)

    def to_mapping(self) -> dict[str, Any]:
        """Plain values in sections, the form of a recipe."""
        return {
            name: {key: list(v) if isinstance(v, tuple) else v for key, v in section.items()}
            for name, section in dataclasses.asdict(self).items()
        }
