"""CLST against baselines on camera changes: several seeds, the same network, initialisation and budget for all.

    python -m benchmarks.adaptation.compare PAIR --work FOLDER [--data DIR] [--seeds N] [--methods A,B,…]
                                         [--source-steps N] [--steps N] [--size HxW] [--jobs N] [--name NAME]
                                         [--set SECTION.KEY=VALUE …]

PAIR is one of those in benchmarks/adaptation/pairs.py; --data is the folder that holds `camvid/` and `idd_lite/`. Each
seed trains one source network; every method adapts that very network with clst-train. A finished run is not made again,
a broken-off one is resumed; with --jobs N so many trainings run side by side, of all seeds (give them --set
run.threads=1), on a GPU a dozen. The last checkpoint counts; labels of the new camera are read for the score and by the
oracle alone. Baselines are as published: the recipe's class balance, masked crops and crops in the target's colours are
CLST's own, as are its first steps by entropy and its start share. Baselines have them in rows that say so; the ablation
builds up from a method without them, and takes single parts away from the whole one.

Beside the test images the unlabelled images that a network was adapted to are scored too, at most 200 of them, by
labels that no row but the oracle has read: the recipe is to be chosen by these, so that the test stays one.

The result goes to benchmarks/results/<pair>.json (with --name to another, as for an ablation): mIoU and IoU
per class of every seed, what share of the way from the source network to the oracle a method recovers, and how CLST
stands against each baseline with a 95 % interval from a paired bootstrap over the test images. CLST's networks are
exported and their ONNX files compared as well.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from benchmarks.adaptation.pairs import PAIRS, Pair
from benchmarks.adaptation.scoring import bootstrap_difference, confusions, mean_iou, merged, per_class
from benchmarks.record import RESULTS, provenance, write_result

OWN_COLOURS, UNMASKED = "augmentation.target_colours=0", "augmentation.masked_crops=0"
LABELS_AT_ONCE, ADAPTED_ALONE = "adaptation.entropy_first=0", "adaptation.start_share=0"
EARLIER = (LABELS_AT_ONCE, ADAPTED_ALONE)
AS_THEY_ARE = (OWN_COLOURS, UNMASKED, *EARLIER)
OLD_LABELS = ("adaptation.ensemble_every=8", "adaptation.ensemble_momentum=0.9")
NO_TARGET = ("adaptation.teacher=none", "adaptation.self_training_weight=0", "adaptation.contrastive_weight=0",
             "adaptation.class_mix=false")  # fmt: skip
PLAIN_TEACHER = ("adaptation.teacher=mean_teacher", "adaptation.contrastive_weight=0",
                 "adaptation.pseudo_label_weighting=confident_share")  # fmt: skip
SHUFFLE = """
import torch, clst_train.method.step as step
true = step.pseudo_labels_of
def shuffled(*arguments):
    labels = true(*arguments)
    return torch.where(labels == 255, labels, (labels + 1) % CLASSES)
step.pseudo_labels_of = shuffled
"""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One row: the settings of clst-train."""

    title: str
    """Its name in tables."""
    settings: tuple[str, ...] = ()
    """`--set` of clst-train."""
    oracle: bool = False
    """Trained on the new camera's labels."""
    patch: str = ""
    """Python that runs before clst-train: controls that are no option of it."""


METHODS = {
    "source_longer": Method(title="source trained on", settings=(*NO_TARGET, *AS_THEY_ARE)),
    "entropy": Method(
        title="entropy minimisation", settings=(*NO_TARGET, "adaptation.entropy_weight=0.1", *AS_THEY_ARE)
    ),
    "entropy_colours": Method(
        title="entropy minimisation + target colours",
        settings=(*NO_TARGET, "adaptation.entropy_weight=0.1", UNMASKED, *EARLIER),
    ),
    "mean_teacher": Method(
        title="mean teacher + ClassMix", settings=(*PLAIN_TEACHER, "adaptation.class_balance=0", *AS_THEY_ARE)
    ),
    "mean_teacher_colours": Method(
        title="mean teacher + ClassMix + target colours",
        settings=(*PLAIN_TEACHER, "adaptation.class_balance=0", UNMASKED, *EARLIER),
    ),
    "mean_teacher_masked": Method(
        title="mean teacher + ClassMix + masks",
        settings=(*PLAIN_TEACHER, "adaptation.class_balance=0", OWN_COLOURS, *EARLIER),
    ),
    "mean_teacher_start": Method(
        title="mean teacher + ClassMix + start share",
        settings=(*PLAIN_TEACHER, "adaptation.class_balance=0", OWN_COLOURS, UNMASKED, LABELS_AT_ONCE),
    ),
    "mean_teacher_balanced": Method(
        title="mean teacher + ClassMix + class balance", settings=(*PLAIN_TEACHER, *AS_THEY_ARE)
    ),
    "clst": Method(title="CLST"),
    "oracle": Method(title="oracle (target labels)", settings=(*NO_TARGET, *AS_THEY_ARE), oracle=True),
    "no_colours": Method(title="CLST without target colours", settings=(OWN_COLOURS,)),
    "ensemble_only": Method(
        title="ensemble only",
        settings=("adaptation.contrastive_weight=0", "adaptation.class_mix=false", *AS_THEY_ARE),
    ),
    "contrast_only": Method(
        title="contrast only",
        settings=("adaptation.self_training_weight=0", "adaptation.class_mix=false", *AS_THEY_ARE),
    ),
    "both": Method(title="ensemble + contrast", settings=("adaptation.class_mix=false", *AS_THEY_ARE)),
    "class_mix": Method(title="ensemble + contrast + ClassMix", settings=AS_THEY_ARE),
    "class_mix_colours": Method(
        title="ensemble + contrast + ClassMix + target colours", settings=(UNMASKED, *EARLIER)
    ),
    "no_contrast": Method(title="CLST without contrast", settings=("adaptation.contrastive_weight=0",)),
    "no_balance": Method(title="CLST without class balance", settings=("adaptation.class_balance=0",)),
    "unmasked": Method(title="CLST without masks", settings=(UNMASKED,)),
    "adapted_alone": Method(title="CLST without start share", settings=(ADAPTED_ALONE,)),
    "labels_at_once": Method(title="CLST without start share and entropy first", settings=EARLIER),
    "before": Method(
        title="CLST without start share, entropy first and masks, with older labels",
        settings=(UNMASKED, *EARLIER, *OLD_LABELS),
    ),
    "aligned": Method(
        title="CLST without start share, entropy first and masks, with older labels, aligned",
        settings=(UNMASKED, *EARLIER, *OLD_LABELS, "adaptation.distribution_alignment=1"),
    ),
    "every4": Method(
        title="CLST without start share, entropy first and masks, ensemble in every fourth step",
        settings=(UNMASKED, *EARLIER, "adaptation.ensemble_every=4", "adaptation.ensemble_momentum=0.9"),
    ),
    "one_view": Method(
        title="CLST, ensemble of one view", settings=("adaptation.ensemble_mirror=false", "adaptation.ensemble_zoom=1")
    ),
    "batch_labels": Method(
        title="CLST, labels by each batch's statistics", settings=("adaptation.statistics_momentum=1",)
    ),
    "colours": Method(title="CLST, target colours always", settings=("augmentation.least_colour_shift=0",)),
    "full_weight": Method(
        title="CLST, every label's full weight", settings=("adaptation.pseudo_label_weighting=none",)
    ),
    "sure": Method(
        title="CLST, labels weigh the share that is sure",
        settings=("adaptation.pseudo_label_weighting=confident_share",),
    ),
    "no_statistics_first": Method(
        title="CLST, started with the old camera's statistics", settings=("adaptation.statistics_first=false",)
    ),
    "no_statistics_last": Method(
        title="CLST, left with the statistics of training", settings=("adaptation.statistics_last=false",)
    ),
    "no_colour_changes": Method(
        title="CLST without changes of colour and blur", settings=("augmentation.colour=0", "augmentation.blur=0")
    ),
    "one_scale": Method(title="CLST, crops at one scale", settings=("augmentation.scale=[1.0,1.0]",)),
    "no_warm_up": Method(title="CLST without warm-up of the target loss", settings=("adaptation.target_warm_up=0",)),
    "distilled": Method(title="CLST + distillation", settings=("adaptation.distil_from=TEACHER",)),
    "shuffled": Method(title="control: shuffled pseudo-labels", patch=SHUFFLE),
}  # fmt: skip
"""What is trained; `source` and `batchnorm` cost no training and are always there."""
MOST_SEEN = 200
"""Images that a network was adapted to and is scored on."""
USUAL = ("entropy", "mean_teacher", "clst", "oracle")
UNTRAINED = {"source": "source only", "batchnorm": "BatchNorm statistics"}


@dataclass(kw_only=True)
class Row:
    """What one method reached."""

    title: str
    settings: tuple[str, ...] = ()
    seeds: list[int] = field(default_factory=list)
    matrices: list[npt.NDArray[np.int64]] = field(default_factory=list)
    """For each seed: images, classes, classes."""
    seen: list[npt.NDArray[np.int64]] = field(default_factory=list)
    """The same on images that it was adapted to."""
    seconds: list[float | None] = field(default_factory=list)
    exported: list[dict[str, float]] = field(default_factory=list)

    def add(self, seed: int, found: Found) -> None:
        """Take in one more seed."""
        self.seeds.append(seed)
        self.matrices.append(found.matrices)
        self.seen += [found.seen] if found.seen is not None else []
        self.seconds.append(found.seconds)
        self.exported += [found.exported] if found.exported is not None else []


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a method reached with one seed."""

    matrices: npt.NDArray[np.int64]
    """Images, classes, classes."""
    seen: npt.NDArray[np.int64] | None
    """The same on images that it was adapted to; None where the source network has learnt their labels."""
    seconds: float | None
    """Of the training, if it was made now."""
    exported: dict[str, float] | None = None
    """The ONNX file beside the checkpoint, where it was asked for."""


def train(out: Path, arguments: list[str], result: Path, patch: str = "") -> float | None:
    """Make, resume or keep one run; returns the seconds of a run made whole now, else None."""
    if result.is_file():
        return None
    begun = (out / "config.toml").is_file()
    started = time.perf_counter()
    given = ["--resume", str(out)] if begun else [*arguments, "--out", str(out)]
    program = f"{patch}\nimport sys\nfrom clst_train.cli.train import main\nmain(sys.argv[1:])"
    subprocess.run([sys.executable, "-c", program, *given], check=True)
    return None if begun else time.perf_counter() - started


def settings_of(values: tuple[str, ...]) -> list[str]:
    """As clst-train takes them."""
    return [part for value in values for part in ("--set", value)]


@dataclass(frozen=True, kw_only=True)
class Workers:
    """Where the work of all seeds is done, no more of it at once than was asked for."""

    trainings: ThreadPoolExecutor
    """Each waits for a process of clst-train."""
    scoring: ProcessPoolExecutor
    """Each predicts on the CPU."""


def measure_seed(
    pair: Pair, work: Path, seed: int, methods: tuple[str, ...], options: dict[str, Any], workers: Workers
) -> dict[str, Found]:
    """Train the source network and all methods of one seed, and score them: what each row found."""
    steps = (f"source.iterations={options['source_steps']}", f"adaptation.iterations={options['steps']}")
    base = ["--recipe", "new_camera", "--size", pair.size, "--seed", str(seed)]
    base += settings_of((*options["settings"], *steps))
    source = work / pair.name / f"seed{seed}" / "source"
    checkpoint = source / "checkpoints" / "source.pt"
    seconds = workers.trainings.submit(train, source, [*base, *pair.source.as_source()], checkpoint).result()
    found = {
        "source": workers.scoring.submit(scored, checkpoint, pair, seconds),
        "batchnorm": workers.scoring.submit(scored, with_statistics(checkpoint, pair), pair, None),
    }

    def made(name: str) -> Future[Found]:
        method, out = METHODS[name], work / pair.name / f"seed{seed}" / name
        labelled = (pair.oracle if method.oracle else pair.source).as_source()
        patch = method.patch.replace("CLASSES", str(len(pair.classes()))) if method.patch else ""
        settings = tuple(each.replace("TEACHER", str(options["teacher"])) for each in method.settings)
        arguments = [*base, *labelled, "--target", str(pair.target), "--init", str(checkpoint), *settings_of(settings)]
        result = out / "checkpoints" / "adapted.pt"
        seconds = train(out, arguments, result, patch)
        export = options["export"] and name == "clst"
        return workers.scoring.submit(scored, result, pair, seconds, export=export, oracle=method.oracle)

    trained = {name: workers.trainings.submit(made, name) for name in methods}
    found |= {name: future.result() for name, future in trained.items()}
    return {name: future.result() for name, future in found.items()}


def scored(checkpoint: Path, pair: Pair, seconds: float | None, *, export: bool = False, oracle: bool = False) -> Found:
    """What a checkpoint reaches; the counts are kept beside it, because scoring takes as long as a hundred steps.

    An `oracle` has learnt the labels of the images adapted to.
    """
    kept, seen = checkpoint.with_suffix(".confusions.npy"), checkpoint.with_suffix(".seen.npy")
    if not kept.is_file():
        np.save(kept, confusions(checkpoint, pair.test))
    if not seen.is_file() and not (oracle and pair.choice == pair.oracle):
        np.save(seen, confusions(checkpoint, pair.choice, most=MOST_SEEN))
    of_seen = np.load(seen) if seen.is_file() else None
    onnx = exported(checkpoint.parents[1], checkpoint, pair) if export else None
    return Found(matrices=np.load(kept), seen=of_seen, seconds=seconds, exported=onnx)


def one_thread() -> None:
    """For scoring side by side."""
    import torch

    torch.set_num_threads(1)


def with_statistics(checkpoint: Path, pair: Pair) -> Path:
    """The source network with nothing but BatchNorm statistics of the target, as a checkpoint beside it."""
    import dataclasses

    from clst_train.config import AdaptationConfig
    from clst_train.data.target import open_target
    from clst_train.method.batchnorm import estimate_statistics
    from clst_train.models.checkpoint import build_from_checkpoint, load_checkpoint, save_checkpoint
    from clst_train.stages.adaptation import statistics_batches

    out = checkpoint.with_name("batchnorm.pt")
    if not out.is_file():
        content = load_checkpoint(checkpoint)
        segmenter, settings = build_from_checkpoint(content), AdaptationConfig()
        images = open_target((str(pair.target),), input_hw=content.input_hw, fit=content.fit)
        batches = statistics_batches(
            segmenter.normalisation, images, count=settings.statistics_images, size=settings.batch
        )
        estimate_statistics(segmenter, batches)
        save_checkpoint(out, dataclasses.replace(content, segmenter_state=segmenter.state_dict()))
    return out


def exported(out: Path, checkpoint: Path, pair: Pair) -> dict[str, float]:
    """The exported network beside PyTorch's, on the test images."""
    from clst_export.pipeline import Inputs, Request, convert
    from clst_export.precision import Precision
    from clst_runtime.backends.onnxruntime.session import OrtBackend
    from clst_runtime.evaluation.parity import compare
    from clst_train.data.target import open_target
    from clst_train.models.checkpoint_backend import open_checkpoint

    model = out / "model.onnx"
    with open_checkpoint(checkpoint) as reference:
        manifest = reference.manifest
        images = open_target((str(pair.target),), input_hw=manifest.input_hw, fit=manifest.fit)
        places = range(min(8, len(images)))
        material = Inputs(frames=[images[at] for at in places], contents=[images.content(at) for at in places])
        convert(checkpoint, model, Request(precision=Precision.FP32), material)
        with OrtBackend(model) as candidate:
            parity = compare(reference, candidate, pair.test.open(reference.manifest.classes))
    return {"miou": parity.candidate.miou, "reference_miou": parity.reference.miou, "agreement": parity.agreement}


def summary(pair: Pair, rows: dict[str, Row], classes: tuple[str, ...]) -> dict[str, Any]:
    """Every row with its seeds, its mean and spread, recovery and where CLST stands against it."""
    headline = [classes.index(name) for name in pair.headline] or list(range(len(classes)))
    found = {}
    for name, row in rows.items():
        every = [100 * mean_iou(matrices.sum(0), list(range(len(classes)))) for matrices in row.matrices]
        found[name] = {
            "title": row.title, "settings": list(row.settings), "seeds": row.seeds,
            **scores({each: rows[each].matrices for each in rows}, name, headline), "miou_all_classes": every,
            "iou": [per_class(matrices.sum(0), classes) for matrices in row.matrices],
            "seconds": row.seconds, "exported": row.exported,
        }  # fmt: skip
        if row.seen:
            found[name]["seen"] = seen_scores(rows, name, lambda seed: seed, headline)
    return found


def seen_scores(rows: dict[str, Row], name: str, grouped: Callable[[Any], Any], classes: list[int]) -> dict[str, Any]:
    """`scores` of one row on the images that it was adapted to, over `classes` of the `grouped` counts."""
    matrices = {each: [grouped(seed) for seed in row.seen] for each, row in rows.items() if row.seen}
    return scores(matrices, name, classes)


def scores(matrices: dict[str, list[npt.NDArray[np.int64]]], name: str, headline: list[int]) -> dict[str, Any]:
    """One row's mIoU of each seed, their mean and spread; what it recovers; how far CLST is ahead of it.

    Args:
        matrices: for each row and seed images,C,C counts.
        name: the row.
        headline: the classes that are averaged.
    """
    values = {each: [100 * mean_iou(seed.sum(0), headline) for seed in seeds] for each, seeds in matrices.items()}
    found: dict[str, Any] = {
        "miou": values[name], "miou_mean": float(np.mean(values[name])), "miou_std": float(np.std(values[name])),
        "recovery": recovery(values, name),
    }  # fmt: skip
    if "clst" in matrices and name != "clst" and len(matrices[name]) == len(matrices["clst"]):
        found["clst_ahead"] = bootstrap_difference(matrices["clst"], matrices[name], headline)
    return found


def merged_summary(pair: Pair, rows: dict[str, Row], classes: tuple[str, ...]) -> dict[str, Any]:
    """The second score of each row, over the pair's merged groups; empty where it has none."""
    if not pair.merged:
        return {}
    groups = [[classes.index(name) for name in members] for members in pair.merged]
    matrices = {name: [merged(seed, groups) for seed in row.matrices] for name, row in rows.items()}
    names, every = [" + ".join(members) for members in pair.merged], list(range(len(groups)))
    found = {}
    for name, row in rows.items():
        found[name] = scores(matrices, name, every)
        found[name]["iou"] = [per_class(seed.sum(0), names) for seed in matrices[name]]
        if row.seen:
            found[name]["seen"] = seen_scores(rows, name, lambda seed: merged(seed, groups), every)
    return found


def recovery(values: dict[str, list[float]], name: str) -> float | None:
    """(method − source) / (oracle − source) of the means over the seeds, of which all three must have as many."""
    if "oracle" not in values or not len(values["oracle"]) == len(values["source"]) == len(values[name]):
        return None
    source, oracle, reached = (float(np.mean(values[each])) for each in ("source", "oracle", name))
    return (reached - source) / (oracle - source) if oracle > source else None


def shift_of(pair: Pair) -> list[float]:
    """How far the two cameras' mean colours are apart, as clst-train measures it: L*, a*, b* in spreads."""
    from clst_runtime.data.subsets import Subset, evenly_spread
    from clst_runtime.imaging.geometry import resize_frame
    from clst_train.data.colours import COMPARED, colour_shift
    from clst_train.data.target import open_target

    rows, columns = (int(part) for part in pair.size.split("x"))
    source, target = pair.source.open(), open_target((str(pair.target),), input_hw=(rows, columns))
    old = (resize_frame(source[place].image, (rows, columns)) for place in evenly_spread(len(source), COMPARED))
    new = Subset(target, evenly_spread(len(target), COMPARED))
    return [float(value) for value in colour_shift(old, new)]


def write(pair: Pair, rows: dict[str, Row], options: dict[str, Any]) -> None:
    """Print the table; write the result file."""
    facts = {"name": pair.name, "title": pair.title, "headline": list(pair.headline), "size": pair.size,
             **provenance(), "source_steps": options["source_steps"], "steps": options["steps"],
             "colour_shift": shift_of(pair), "settings": list(options["settings"])}  # fmt: skip
    methods, second = summary(pair, rows, pair.classes()), merged_summary(pair, rows, pair.classes())
    write_result(
        RESULTS / f"{options['name'] or pair.name}.json",
        facts | {"methods": methods} | ({"merged": second} if second else {}),
    )
    for name, row in methods.items():
        share = "" if row["recovery"] is None else f"recovery {100 * row['recovery']:5.1f} %"
        ahead = row.get("clst_ahead")
        against = ahead and f"CLST ahead by {ahead['mean']:+.2f} [{ahead['low']:+.2f}, {ahead['high']:+.2f}]"
        print(f"{name:14} {row['miou_mean']:6.2f} ± {row['miou_std']:.2f}  {share:18} {against or ''}")


@click.command()
@click.argument("pair_name", metavar="PAIR", type=click.Choice(sorted(PAIRS)))
@click.option("--work", required=True, type=click.Path(path_type=Path), help="Folder for the runs.")
@click.option("--data", type=click.Path(path_type=Path), help="Folder that holds camvid/ and idd_lite/.")
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1))
@click.option("--methods", default=",".join(USUAL), show_default=True, help=f"Of: {', '.join(METHODS)}.")
@click.option("--source-steps", default=3000, show_default=True, type=click.IntRange(1))
@click.option("--steps", default=600, show_default=True, type=click.IntRange(1))
@click.option("--size", default="", metavar="HxW", help="Of the network's input; else the pair's.")
@click.option("--jobs", default=1, show_default=True, type=click.IntRange(1), help="Trainings side by side.")
@click.option("--name", default="", help="Of the result file; else the pair's.")
@click.option("--teacher", type=click.Path(exists=True, path_type=Path), help="Checkpoint for `distilled`.")
@click.option("--export/--no-export", default=True, show_default=True, help="Compare CLST's ONNX files as well.")
@click.option("--set", "settings", multiple=True, help="Any setting of clst-train, for all rows.")
def main(pair_name: str, work: Path, data: Path | None, seeds: int, methods: str, **options: Any) -> None:
    """Measure PAIR; the result file is written anew after each seed."""
    if options["size"] and re.fullmatch(r"\d+x\d+", options["size"]) is None:
        raise click.UsageError(f"--size {options['size']} is not rows x columns, as in 240x320")
    names = tuple(name for name in methods.split(",") if name)
    unknown = [name for name in names if name not in METHODS]
    if unknown:
        raise click.UsageError(f"unknown methods {', '.join(unknown)}; there are {', '.join(METHODS)}")
    if "distilled" in names and options["teacher"] is None:
        raise click.UsageError("the method distilled needs --teacher, an adapted network's checkpoint")
    pair = PAIRS[pair_name](work, data)
    pair = replace(pair, size=options["size"] or pair.size)
    rows = {name: Row(title=title) for name, title in UNTRAINED.items()}
    rows |= {name: Row(title=METHODS[name].title, settings=METHODS[name].settings) for name in names}
    jobs, fresh = options["jobs"], get_context("spawn")  # a forked copy of a process with PyTorch's threads may hang
    setup = one_thread if jobs > 1 else None
    if setup is not None:
        setup()
    with (
        ThreadPoolExecutor(jobs) as trainings,
        ProcessPoolExecutor(jobs, mp_context=fresh, initializer=setup) as scoring,
        ThreadPoolExecutor(jobs) as side_by_side,
    ):
        workers = Workers(trainings=trainings, scoring=scoring)
        given = [
            side_by_side.submit(measure_seed, pair, work, seed, names, options, workers) for seed in range(1, seeds + 1)
        ]
        for seed, future in enumerate(given, start=1):
            for name, found in future.result().items():
                rows[name].add(seed, found)
            write(pair, rows, options)


if __name__ == "__main__":
    main()
