"""Training settings: frozen dataclasses, checked where they are defined; `recipes/recipe.py` reads them from TOML.

Order of precedence: the defaults here < the recipe < `--set section.key=value` < the command's own options.
Constants of the method are this project's choice, chosen by measurement (docs/method.md).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from clst_runtime.errors import ConfigError, did_you_mean
from clst_runtime.imaging.geometry import Fit, fit_named
from clst_runtime.system.numbers import LARGEST_SIDE, MOST_THREADS

NETWORKS = ("ddrnet23_slim", "deeplabv2_resnet101")
TEACHERS = ("ensemble", "mean_teacher", "none")
ENSEMBLE_VIEWS = ("whole", "crops")
WEIGHTINGS = ("none", "confident_share", "probability")


def _need(condition: bool, text: str) -> None:  # noqa: FBT001
    if not condition:
        raise ConfigError(text)


def _check_sides(name: str, size_hw: tuple[int, int]) -> None:
    _need(max(size_hw) <= LARGEST_SIDE, f"{name} = {list(size_hw)}; give rows and columns up to {LARGEST_SIDE}")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Data sets: places, formats, splits."""

    source: str = ""
    """Folder of the labelled old camera."""
    source_format: str = ""
    """Its format; empty = recognise it."""
    source_split: str = "train"
    """Which of its splits to train on."""
    mapping: str = ""
    """JSON file that relates the source's classes to the model's; empty = by equal names."""
    target: tuple[str, ...] = ()
    """Image folders or video files of the new camera; never labels."""
    target_every: int = 0
    """Take every n-th frame of a target video; 0 = every one, of long videos so many that all give at most 3000."""
    ignore_mask: str = ""
    """PNG of the new camera's size; non-zero pixels (bonnet, lens border) are never learned from."""
    val: str = ""
    """Labelled images to report mIoU on while training; never used to choose a checkpoint."""
    val_format: str = ""
    """Their format; empty = recognise it."""
    val_split: str = "val"
    """Which of their splits."""
    val_mapping: str = ""
    """JSON file that relates their classes to the model's."""
    rare_class_sampling: float = 0.0
    """Temperature T of rare-class sampling of source images, P(c) ∝ exp((1 − f_c)/T), e.g. 0.1; 0 = off."""
    source_hw: tuple[int, int] = (0, 0)
    """Rows and columns, in pixels, that source images are resized to before cropping; [0, 0] = model.input_hw."""

    def __post_init__(self) -> None:
        _need(
            self.source_hw == (0, 0) or min(self.source_hw) >= 32,
            f"data.source_hw = {list(self.source_hw)}; give rows and columns of at least 32, or [0, 0]",
        )
        _check_sides("data.source_hw", self.source_hw)
        _need(self.target_every >= 0, f"data.target_every = {self.target_every}; give 0 or more")
        _need(self.rare_class_sampling >= 0, f"data.rare_class_sampling = {self.rare_class_sampling}; give 0 or more")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The network and what it segments."""

    network: str = "ddrnet23_slim"
    """`ddrnet23_slim` (real time) or `deeplabv2_resnet101` (the literature's)."""
    classes: str = ""
    """A shipped class list or a JSON file; empty = those of the source data set."""
    input_hw: tuple[int, int] = (360, 480)
    """Rows and columns, in pixels, that frames are resized to, in training, export and driving alike."""
    fit: str = "stretch"
    """How frames are resized: `stretch` fills rows and columns, `letterbox` keeps shapes and leaves bars."""
    backbone_weights: str = ""
    """State dict with ImageNet weights to start source training from; empty = from scratch."""

    def __post_init__(self) -> None:
        _need(
            len(self.input_hw) == 2 and min(self.input_hw) >= 32,
            f"model.input_hw = {list(self.input_hw)}; give rows and columns of at least 32",
        )
        _check_sides("model.input_hw", self.input_hw)
        _need(self.network in NETWORKS, f"no network {self.network!r}; {did_you_mean(self.network, NETWORKS)}")
        known = [fit.value for fit in Fit]
        _need(self.fit in known, f"model.fit = {self.fit!r}; give {' or '.join(known)}")


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Supervised training on the old camera."""

    iterations: int = 4000
    """Optimiser steps."""
    batch: int = 8
    """Images a step."""
    accumulate: int = 1
    """Parts of a batch, computed one after another; saves memory, and BatchNorm sees each part by itself."""
    learning_rate: float = 1e-3
    """Peak of the AdamW learning rate; linear warm-up, then polynomial decay."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    auxiliary_weight: float = 0.4
    """Weight of the auxiliary head's loss, for networks that have one."""
    colour: float = -1.0
    """Strength of colour changes in this stage, e.g. 0.5 for a network that tolerates other light; −1 =
    augmentation.colour."""

    def __post_init__(self) -> None:
        _need(self.colour == -1 or 0 <= self.colour < 1, f"source.colour = {self.colour}; give 0 up to below 1, or -1")
        _need(self.iterations >= 1, f"source.iterations = {self.iterations}; give 1 or more")
        _need(self.batch >= 1, f"source.batch = {self.batch}; give 1 or more")
        _need(
            self.accumulate >= 1 and self.batch % self.accumulate == 0,
            f"source.accumulate = {self.accumulate}; give a divisor of source.batch = {self.batch}",
        )
        _need(self.learning_rate > 0, f"source.learning_rate = {self.learning_rate}; give a positive number")
        for name in ("weight_decay", "auxiliary_weight"):
            _need(getattr(self, name) >= 0, f"source.{name} = {getattr(self, name)}; give 0 or more")


@dataclass(frozen=True, kw_only=True)
class AdaptationConfig:
    """CLST on the new camera: L = CE(source) + λ_ST · CE(target, pseudo-labels) + λ_CL · L_CL."""

    iterations: int = 2000
    """Optimiser steps."""
    batch: int = 4
    """Source images and target images a step, each."""
    learning_rate: float = 3e-4
    """Peak of the AdamW learning rate."""
    weight_decay: float = 0.01
    """AdamW weight decay."""
    self_training_weight: float = 1.0
    """λ_ST."""
    contrastive_weight: float = 0.1
    """λ_CL."""
    target_warm_up: float = 0.1
    """Fraction of the steps over which λ_ST and λ_CL rise from 0."""
    ensemble_momentum: float = 0.9
    """α of the temporal ensemble, per visit of an image."""
    ensemble_store: str = "auto"
    """Classes kept at each feature pixel: `exact` (all), `top_k`, or `auto`: all where that takes at most 256 MiB."""
    ensemble_top_k: int = 5
    """Most probable classes that a `top_k` store keeps at each feature pixel."""
    class_mix: bool = True
    """Paste half of a source image's classes into the target image (ClassMix)."""
    temperature: float = 0.1
    """τ of the contrastive loss."""
    prototype_momentum: float = 0.99
    """Momentum of the global source prototypes, per step."""
    minimum_pixels: int = 4
    """Feature pixels that a class needs in an image to have a mean projection."""
    projection_width: int = 128
    """Channels of the projection space and of the projection head's hidden layer."""
    statistics_first: bool = True
    """Start from BatchNorm statistics estimated on target images."""
    statistics_last: bool = True
    """End with BatchNorm statistics estimated on target images; they are what is exported."""
    statistics_images: int = 256
    """Target images, at most, that the statistics are estimated on."""
    statistics_momentum: float = 0.1
    """How far each batch of whole images moves the statistics that they are predicted by for pseudo-labels; 1 = only
    its own."""
    teacher: str = "ensemble"
    """Where pseudo-labels come from: `ensemble` (the method), `mean_teacher` (averaged weights) or `none`."""
    ensemble_view: str = "whole"
    """What the ensemble averages: predictions of `whole` images, made for it alone, or the student's own of `crops`."""
    ensemble_every: int = 4
    """Steps between two predictions of whole images for the ensemble; images never visited are always predicted. 0 =
    by how many steps show each image: the fewer, the more often, from every third step to every eighth."""
    ensemble_mirror: bool = True
    """Mirror whole images in half of the ensemble's predictions."""
    ensemble_zoom: float = 1.25
    """Enlarge them by a random factor up to this one; 1 = never."""
    teacher_momentum: float = 0.99
    """Momentum of the mean teacher's weights, per step."""
    pseudo_label_weighting: str = "none"
    """How much the target's own pixels weigh: `none` = 1, `probability` = what the teacher gives their label,
    `confident_share` = all alike the share of pixels that the teacher is sure of."""
    probability_exponent: float = 1.0
    """Power of the probability that `probability` weighs by; the higher, the less doubtful pixels count."""
    confidence_threshold: float = 0.968
    """Probability from which `confident_share` calls a pixel sure."""
    entropy_weight: float = 0.0
    """Weight of the entropy of target predictions, minimised directly; 0 = off."""
    entropy_first: float = 0.0
    """Fraction of the steps, at the start, in which target images only minimise their predictions' entropy;
    pseudo-labels come after them."""
    entropy_first_weight: float = 0.1
    """Weight of the entropy in those steps."""
    start_share: float = 0.0
    """Share of the weights that self-training began with in the final ones; 0 = the adapted ones alone."""
    class_balance: float = 0.0
    """Exponent γ: a target pixel of class c weighs max(its share in the batch, 1 %)^−γ; 0 = all alike."""
    distribution_alignment: float = 0.0
    """Exponent that holds the pseudo-labels' class shares at those that the network predicts at the start: ẑ_c times
    (share at the start / share now) to this power; 0 = off, 1 = fully."""
    auxiliary_weight: float = 0.0
    """Weight of the auxiliary head's source and target losses, for networks that have one; 0 = not trained here."""
    distil_from: str = ""
    """Checkpoint of an adapted, usually larger network with the same classes to learn from as well; empty = none."""
    distil_weight: float = 1.0
    """Weight of the divergence from that network's predictions on the target's own pixels."""
    distil_temperature: float = 1.0
    """Temperature of both predictions; above 1 improbable classes count more."""

    def __post_init__(self) -> None:
        _need(self.iterations >= 0, f"adaptation.iterations = {self.iterations}; give 0 or more")
        _need(self.batch >= 1, f"adaptation.batch = {self.batch}; give 1 or more")
        _need(self.learning_rate > 0, f"adaptation.learning_rate = {self.learning_rate}; give a positive number")
        _need(self.temperature > 0, f"adaptation.temperature = {self.temperature}; give a positive number")
        _need(0 <= self.target_warm_up <= 1, f"adaptation.target_warm_up = {self.target_warm_up}; give 0 to 1")
        _need(self.minimum_pixels >= 1, f"adaptation.minimum_pixels = {self.minimum_pixels}; give 1 or more")
        _need(self.projection_width >= 1, f"adaptation.projection_width = {self.projection_width}; give 1 or more")
        _need(self.statistics_images >= 2, f"adaptation.statistics_images = {self.statistics_images}; give 2 or more")
        _need(
            self.ensemble_store in ("auto", "exact", "top_k"),
            f"adaptation.ensemble_store = {self.ensemble_store!r}; give auto, exact or top_k",
        )
        _need(self.ensemble_top_k >= 1, f"adaptation.ensemble_top_k = {self.ensemble_top_k}; give 1 or more")
        _need(
            0 <= self.statistics_momentum <= 1,
            f"adaptation.statistics_momentum = {self.statistics_momentum}; give 0 to 1",
        )
        for name in ("ensemble_momentum", "prototype_momentum", "entropy_first", "start_share"):
            _need(0 <= getattr(self, name) < 1, f"adaptation.{name} = {getattr(self, name)}; give 0 up to below 1")
        for name in (
            *("self_training_weight", "contrastive_weight", "entropy_weight", "entropy_first_weight"),
            *("auxiliary_weight", "distil_weight", "class_balance", "distribution_alignment"),
            *("probability_exponent", "weight_decay"),
        ):
            _need(getattr(self, name) >= 0, f"adaptation.{name} = {getattr(self, name)}; give 0 or more")
        self._check_teacher()

    def _check_teacher(self) -> None:
        for name, known in (
            *(("teacher", TEACHERS), ("pseudo_label_weighting", WEIGHTINGS)),
            ("ensemble_view", ENSEMBLE_VIEWS),
        ):
            value = getattr(self, name)
            _need(value in known, f"adaptation.{name} = {value!r}; give {', '.join(known)}")
        _need(
            self.distil_temperature > 0,
            f"adaptation.distil_temperature = {self.distil_temperature}; give a positive number",
        )
        _need(1 <= self.ensemble_zoom <= 2, f"adaptation.ensemble_zoom = {self.ensemble_zoom}; give 1 to 2")
        _need(self.ensemble_every >= 0, f"adaptation.ensemble_every = {self.ensemble_every}; give 0 or more")
        for name in ("teacher_momentum", "confidence_threshold"):
            _need(0 <= getattr(self, name) < 1, f"adaptation.{name} = {getattr(self, name)}; give 0 up to below 1")
        for name in ("self_training_weight", "contrastive_weight", "distribution_alignment"):
            _need(
                self.teacher != "none" or getattr(self, name) == 0,
                f"adaptation.{name} = {getattr(self, name)} needs pseudo-labels, but adaptation.teacher is none; "
                f"set {name} to 0, or teacher to ensemble",
            )


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """How training images are augmented."""

    crop_hw: tuple[int, int] = (0, 0)
    """Rows and columns of a training crop, in pixels; [0, 0] = `crop_share` of the model's input size."""
    crop_share: float = 1.0
    """Crop size as a share of the input size, to multiples of 32 pixels, where `crop_hw` is [0, 0]; 1 = all of it."""
    scale: tuple[float, float] = (0.75, 1.5)
    """Smallest and largest factor of the random zoom."""
    flip: bool = True
    """Mirror half of the images."""
    colour: float = 0.25
    """Strength of brightness, contrast, saturation and colour balance changes, 0 to below 1; 0 = none."""
    blur: float = 0.3
    """Probability of a Gaussian blur."""
    target_colours: float = 0.0
    """Probability that a source crop of the adaptation takes on the colours of its target image, to a random degree."""
    least_colour_shift: float = 0.0
    """Smallest difference of the cameras' mean colours, in units of their spread, for `target_colours`; 0 = always."""
    aspect: float = 0.0
    """Random stretch of rows against columns, at most by the factor 1 + aspect either way; 0 = none."""
    masked_crops: float = 0.0
    """Probability that squares of a target crop are hidden, so that the network learns to use context; 0 = none is."""
    masked_share: float = 0.5
    """Share of a masked crop's squares that are hidden, on average."""
    masked_square: int = 0
    """Side of the squares in pixels; 0 = a sixth of the crop's shorter side."""

    def __post_init__(self) -> None:
        low, high = self.scale
        _need(
            0.05 <= low <= high <= 20,
            f"augmentation.scale = {list(self.scale)}; give a smallest and a largest zoom, from 0.05 to 20",
        )
        _need(0 < self.crop_share <= 1, f"augmentation.crop_share = {self.crop_share}; give above 0 up to 1")
        _need(0 <= self.colour < 1, f"augmentation.colour = {self.colour}; give 0 up to below 1")
        _need(0 <= self.aspect <= 1, f"augmentation.aspect = {self.aspect}; give 0 to 1")
        _need(
            0 <= self.target_colours <= 1,
            f"augmentation.target_colours = {self.target_colours}; give a probability",
        )
        _need(
            self.least_colour_shift >= 0,
            f"augmentation.least_colour_shift = {self.least_colour_shift}; give 0 or more",
        )
        _need(0 <= self.blur <= 1, f"augmentation.blur = {self.blur}; give a probability")
        _need(0 <= self.masked_crops <= 1, f"augmentation.masked_crops = {self.masked_crops}; give a probability")
        _need(
            0 <= self.masked_share < 1,
            f"augmentation.masked_share = {self.masked_share}; give a probability below 1, else nothing is seen",
        )
        _need(
            self.masked_square >= 0,
            f"augmentation.masked_square = {self.masked_square}; give pixels, or 0 for a sixth of the crop",
        )


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Device, threads, precision and logging of a run."""

    seed: int = 1
    """Seed of everything random."""
    device: str = "auto"
    """`cpu`, `cuda`, `cuda:1` …; `auto` takes CUDA when there is one."""
    precision: str = "auto"
    """`fp32`, `bf16`, `fp16` (with loss scaling), or `auto`: bf16 where the device computes it natively, else fp32."""
    channels_last: str = "auto"
    """`on` keeps weights with their channels innermost, as frames come; `off` leaves them; `auto`: what was faster."""
    deterministic: bool = False
    """On CUDA, use algorithms that give the same bits each time, so that a resumed run equals an unbroken one; slow. A
    CPU always does."""
    compile: bool = False
    """Compile the network's passes with `torch.compile`; needs a C++ compiler, and minutes at the start."""
    threads: int = 0
    """CPU threads; 0 = PyTorch's choice."""
    loaders: int = 1
    """Threads that read, resize and augment images ahead of the training."""
    cache_mib: int = 0
    """Memory in MiB for decoded images at the model's input size, which are then read once; 0 = none."""
    tensorboard: bool = False
    """Write TensorBoard event files beside the log; needs the `tensorboard` package."""
    log_every: int = 20
    """Steps between two lines of the log."""
    checkpoint_every: int = 250
    """Steps between two checkpoints to resume from."""
    validate_every: int = 500
    """Steps between two validations, when labels for one are given."""

    def __post_init__(self) -> None:
        _need(
            self.precision in ("auto", "fp32", "bf16", "fp16"),
            f"run.precision = {self.precision!r}; give auto, fp32, bf16 or fp16",
        )
        _need(
            self.channels_last in ("auto", "on", "off"),
            f"run.channels_last = {self.channels_last!r}; give auto, on or off",
        )
        for name in ("log_every", "checkpoint_every", "validate_every", "loaders"):
            _need(getattr(self, name) >= 1, f"run.{name} = {getattr(self, name)}; give 1 or more")
        for name in ("threads", "cache_mib", "seed"):
            _need(getattr(self, name) >= 0, f"run.{name} = {getattr(self, name)}; give 0 or more")
        for name in ("threads", "loaders"):
            _need(getattr(self, name) <= MOST_THREADS, f"run.{name} = {getattr(self, name)}; {MOST_THREADS} at most")


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
        _need(
            crop[0] <= whole[0] and crop[1] <= whole[1],
            f"augmentation.crop_hw = {list(crop)} is larger than model.input_hw = {list(whole)}; give less, "
            "or [0, 0] and augmentation.crop_share",
        )

    @property
    def crop_hw(self) -> tuple[int, int]:
        """Rows and columns of a training crop."""
        given, share = self.augmentation.crop_hw, self.augmentation.crop_share
        if min(given) > 0:
            return given
        rows, columns = (
            size if share == 1 else min(size, max(32, 32 * round(share * size / 32))) for size in self.model.input_hw
        )
        return rows, columns

    @property
    def source_augmentation(self) -> AugmentationConfig:
        """Augmentation of source training."""
        own = self.source.colour
        return self.augmentation if own < 0 else dataclasses.replace(self.augmentation, colour=own)

    @property
    def fit(self) -> Fit:
        """How images of another size are resized to `source_hw` or `model.input_hw`."""
        return fit_named(self.model.fit)

    @property
    def source_hw(self) -> tuple[int, int]:
        """Rows and columns that source images are resized to."""
        return self.data.source_hw if min(self.data.source_hw) > 0 else self.model.input_hw

    def to_mapping(self) -> dict[str, Any]:
        """Plain values in sections, the form of a recipe."""
        return {
            name: {key: list(v) if isinstance(v, tuple) else v for key, v in section.items()}
            for name, section in dataclasses.asdict(self).items()
        }
