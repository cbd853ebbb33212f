"""Whose BatchNorm statistics an adaptation has: the new camera's, or the old network's own (decision 10)."""

from __future__ import annotations

from clst_runtime.evaluation.unlabelled import NoEstimate
from clst_train.compute.distributed import each_alone, on_any_rank, report, together
from clst_train.engine.run import Run
from clst_train.inspection.verdict import estimate
from clst_train.models.checkpoint_backend import TorchBackend, segmenter_backend

KEPT = "the old camera's stay, in training and in the result"


def backend_of(run: Run) -> TorchBackend:
    """The network as it is now, in a copy."""
    model = run.config.model
    return segmenter_backend(
        run.segmenter, network=model.network, classes=run.classes, input_hw=model.input_hw, fit=run.config.fit
    )


def old_ones_stay(run: Run, old: TorchBackend) -> bool:
    """Whether the new camera's statistics make the network worse than it was with its `old` ones; reported.

    An estimate without labels, as of `clst-verdict`, by the first rank. Where too few images differ for one, they are
    taken to.
    """
    worse = False
    with together():
        if run.ranks.first:
            with each_alone():
                worse = _estimated_worse(run, old)
    return on_any_rank(worse)


def _estimated_worse(run: Run, old: TorchBackend) -> bool:
    try:
        found = estimate(run, old, backend_of(run))
    except NoEstimate as error:
        report(f"statistics: {KEPT}: {error.message}")
        return True
    worse, (low, high) = found.points < 0, found.interval
    report(
        f"statistics: the new camera's change mIoU by about {found.points:+.1f} points (estimated without labels, 95 % "
        f"interval {low:+.1f} to {high:+.1f}); {KEPT if worse else 'pseudo-labels and the result have them'}"
    )
    return worse
