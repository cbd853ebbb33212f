"""Supervised training on the old camera; a resumed run continues exactly where its checkpoint left it.

Legend: B images of a batch, K rows and L columns of a crop.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from clst_runtime.classes.labels import IGNORE_ID
from clst_train.compute.cores import on_first_core
from clst_train.compute.distributed import on_any_rank, together, total
from clst_train.compute.forward_pass import ForwardPass, forward_pass_of
from clst_train.compute.ranks import Ranks
from clst_train.data.loading import SourceBatch, source_batch
from clst_train.engine.optimizer import Descent, adamw, set_rate
from clst_train.engine.progress import with_progress
from clst_train.engine.run import SOURCE, Run, loaded, log_step, seed_step
from clst_train.engine.stopping import Stopped, asked, finishing_steps
from clst_train.method.losses.segmentation import segmentation_loss
from clst_train.models.checkpoint import Checkpoint, save_checkpoint
from clst_train.models.deployable import normalise_in_training


def train_source(run: Run, resume: Checkpoint | None) -> None:
    """Supervised training on the old camera; ends with `checkpoints/source.pt`."""
    settings, segmenter = run.config.source, run.segmenter
    descent = descent_of(run)
    optimiser, first = descent.optimiser, 0
    if resume is not None and resume.training_state is not None:
        first = resume.iteration
        segmenter.load_state_dict(resume.segmenter_state)
        optimiser.load_state_dict(resume.training_state["optimiser"])
        descent.load_state_dict(resume.training_state.get("descent", {}))
    with together():
        run.logbook.forget_after(SOURCE, first)
    segmenter.train()
    passes = forward_pass_of(segmenter, None, auxiliary_weight=settings.auxiliary_weight)
    batches = loaded(run, labelled_crops, first, settings.iterations)
    with finishing_steps(), on_first_core(run.device.type):
        for iteration, batch in with_progress(run, SOURCE, batches, settings.iterations):
            set_rate(optimiser, settings.learning_rate, iteration, settings.iterations)
            seed_step(run, SOURCE, iteration)
            for loss in partial_losses(run, batch, passes):
                descent.backward(loss)
            values = {"loss": descent.step(iteration)}
            done, stops = iteration + 1, on_any_rank(asked())
            log_step(
                run, SOURCE, done, values, iterations=settings.iterations, batches=None, descent=descent,
                make=labelled_crops, stops=stops,
            )  # fmt: skip
            if stops or done % run.config.run.checkpoint_every == 0 or done == settings.iterations:
                state = {"optimiser": optimiser.state_dict(), "descent": descent.state_dict()}
                with together():
                    if run.ranks.first:
                        save_checkpoint(run.folder.resume, run.checkpoint(SOURCE, done, state))
            if stops:
                raise Stopped
    with together():
        if run.ranks.first:
            save_checkpoint(run.folder.source, run.checkpoint(SOURCE, settings.iterations))


def descent_of(run: Run) -> Descent:
    """The optimiser of the network."""
    settings, segmenter = run.config.source, run.segmenter
    rate, decay = settings.learning_rate, settings.weight_decay
    optimiser = adamw(segmenter.parameters(), learning_rate=rate, weight_decay=decay, device=run.device)
    return Descent(optimiser, [segmenter], run.device, scaled=run.scaled)


def labelled_crops(run: Run, iteration: int) -> SourceBatch:
    """The crops of one iteration; this rank's part of them."""
    settings = run.config.source
    places = _places(settings.batch, settings.accumulate, run.ranks)
    return source_batch(run.source, run.config, settings.batch, 0, iteration, places=places.tolist())


def _places(batch: int, parts: int, ranks: Ranks) -> npt.NDArray[np.int64]:
    """This rank's places of a batch: its share of the first of `parts` parts, of the second, and so on."""
    return np.arange(batch).reshape(parts, ranks.count, -1)[:, ranks.rank].ravel()


def partial_losses(run: Run, batch: SourceBatch, passes: nn.Module | None = None) -> Iterator[Tensor]:
    """The losses of `source.accumulate` equal parts of a batch, one after another; they sum to the batch's loss.

    Each part counts by its labelled pixels, so that sum and gradient are those of the whole batch, but for
    BatchNorm, which normalises each part by itself. Take each one's gradient before asking for the next.
    With several ranks a part is what all of them hold of it. `passes` makes the forward pass; None = in this process.
    """
    settings, passes = run.config.source, ForwardPass(run.segmenter) if passes is None else passes
    parts = np.split(np.arange(len(batch.labels)), settings.accumulate)
    labelled = torch.tensor([int((batch.labels[part] != IGNORE_ID).sum()) for part in parts], dtype=torch.float64)
    labelled = total(labelled)
    shares = (labelled / labelled.sum().clamp_min(1)).tolist()
    for part, share in zip(parts, shares, strict=True):
        rows = slice(int(part[0]), int(part[-1]) + 1)
        labels = torch.from_numpy(batch.labels[rows]).to(run.device, non_blocking=True).long()
        frames = torch.from_numpy(batch.images[rows]).to(run.device, non_blocking=True)
        images = normalise_in_training(frames, run.segmenter.normalisation)
        with run.autocast:
            outputs, _ = passes(images)
        loss = segmentation_loss(outputs.logits, labels)
        if outputs.auxiliary is not None:
            loss = loss + settings.auxiliary_weight * segmentation_loss(outputs.auxiliary, labels)
        yield loss * share
