"""The rows that are compared: CLST, its parts, baselines and oracles, each by the settings of clst-train.

An *extra* is what the recipe adds to the method's two parts, the ensemble and the contrast: whatever it names for the
adaptation that can be off, such as ClassMix or masked crops. Each extra has a row without it, and each trained baseline
a row with all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from clst_train.config import AdaptationConfig, AugmentationConfig
from clst_train.recipes.recipe import read_recipe

RECIPE = "new_camera"
OFF = (False, 0, "none")


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


def extras_of(recipe: dict[str, Any]) -> dict[str, str]:
    """Of each extra that a recipe names: the setting that switches it off."""
    found = {}
    for section, kind in (("adaptation", AdaptationConfig), ("augmentation", AugmentationConfig)):
        defaults = {each.name: each.default for each in fields(kind)}
        for key, value in recipe.get(section, {}).items():
            off = False if value is True else defaults.get(key)
            if off in OFF and value != off:
                found[key] = f"{section}.{key}={str(off).lower()}"
    return found


EXTRAS = tuple(extras_of(read_recipe(RECIPE)).items())
"""Name of each extra, and what switches it off."""
PLAIN = tuple(off for _, off in EXTRAS)
NO_MIX = tuple(off for name, off in EXTRAS if name == "class_mix")
NO_CONTRAST = "adaptation.contrastive_weight=0"
NO_LABELS = ("adaptation.teacher=none", "adaptation.self_training_weight=0", NO_CONTRAST, *NO_MIX)
ENTROPY = (*NO_LABELS, "adaptation.entropy_first=1")
MEAN_TEACHER = "adaptation.teacher=mean_teacher"
AS_PUBLISHED = tuple(off for off in PLAIN if off not in NO_MIX)
CONFIDENT_SHARE = """
import torch, clst_train.method.step as step
seen, asked, cut, loss_of = {}, step.soft_labels_of, step._student_crops_of, step.segmentation_loss
def soft_labels_of(*arguments, **more):
    found = asked(*arguments, **more)
    sure = found.probabilities.amax(1) > 0.968
    seen["share"] = (sure if found.hidden is None else sure[~found.hidden]).float().mean()
    return found
def student_crops_of(*arguments):
    seen["crops"] = cut(*arguments)
    return seen["crops"]
def segmentation_loss(logits, labels, *weights):
    return loss_of(logits, labels, *(torch.where(seen["crops"].own, seen["share"], 1.0) for _ in weights))
step.soft_labels_of, step._student_crops_of = soft_labels_of, student_crops_of
step.segmentation_loss = segmentation_loss
"""
"""As in DACS: the target's own pixels all weigh the share of cells that the teacher is sure of, pasted ones 1."""
SHUFFLE = """
import torch, clst_train.method.step as step
true = step.pseudo_labels_of
def shuffled(*arguments):
    labels = true(*arguments)
    return torch.where(labels == 255, labels, (labels + 1) % CLASSES)
step.pseudo_labels_of = shuffled
"""
LATER_CODE = """
import torch, clst_train.method.entropy_first as first, clst_train.method.step as step
import clst_train.stages.adaptation as stage
loss_of, one_step = step.segmentation_loss, stage._step
def sgd(parameters, *, learning_rate, device):
    return torch.optim.SGD(parameters, lr=learning_rate, momentum=0.9, weight_decay=5e-4)
def two_steps(run, state, source, target, iteration, begin):
    learner = state.learner
    with learner.autocast:
        outputs, projections = learner.outputs_of(learner.tensor(source.images))
    loss = loss_of(outputs.logits, learner.plain(source.labels).long()) + 0 * projections.sum()
    state.descent.descend(loss, iteration)
    return one_step(run, state, source, target, iteration, begin)
def without_source(logits, labels, *weights):
    return loss_of(logits, labels, *weights) if weights else loss_of(logits, labels).detach()
stage.adamw, stage._step = sgd, two_steps
step.segmentation_loss = first.segmentation_loss = without_source
"""
"""The segmentation code of the paper's group (test-time-adaptation, GTTA): SGD, and in each iteration a step of the
optimiser for the source's loss, then one for the target's. Its ten times higher rate of the head and its constant rate
are left out."""

METHODS = {
    "source": Method(title="old network"),
    "statistics": Method(title="BatchNorm statistics"),
    "entropy": Method(title="entropy minimisation", settings=(*PLAIN, *ENTROPY)),
    "entropy_extras": Method(title="entropy minimisation + extras", settings=ENTROPY),
    "mean_teacher": Method(
        title="mean teacher + ClassMix", settings=(MEAN_TEACHER, NO_CONTRAST, *AS_PUBLISHED), patch=CONFIDENT_SHARE
    ),
    "mean_teacher_extras": Method(title="mean teacher + extras", settings=(MEAN_TEACHER, NO_CONTRAST)),
    "mean_teacher_full": Method(title="CLST, mean teacher in the ensemble's place", settings=(MEAN_TEACHER,)),
    "ensemble_only": Method(title="ensemble only", settings=(*PLAIN, NO_CONTRAST)),
    "contrast_only": Method(title="contrast only", settings=(*PLAIN, "adaptation.self_training_weight=0")),
    "both": Method(title="ensemble + contrast", settings=PLAIN),
    "clst": Method(title="CLST"),
    "without_contrast": Method(title="CLST without contrast", settings=(NO_CONTRAST,)),
    **{f"without_{name}": Method(title=f"CLST without {name}", settings=(off,)) for name, off in EXTRAS},
    "without_self_training": Method(
        title="CLST without self-training", settings=("adaptation.self_training_weight=0",)
    ),
    "later_code": Method(
        title="CLST, constants of the group's later code",
        settings=("adaptation.learning_rate=2.5e-4", "adaptation.batch=2", "adaptation.self_training_weight=0.1"),
        patch=LATER_CODE,
    ),
    "shuffled": Method(title="control: shuffled pseudo-labels", patch=SHUFFLE),
    "oracle": Method(title="oracle: old network, then target labels", settings=(*PLAIN, *NO_LABELS), oracle=True),
    "oracle_long": Method(title="oracle: target labels alone", oracle=True),
}
"""The first two cost no adaptation and are always there."""
ALWAYS = ("source", "statistics")
USUAL = ("entropy", "mean_teacher", "mean_teacher_full", "clst", "oracle", "oracle_long")
