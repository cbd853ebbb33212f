"""Which BatchNorm statistics predict target images: the new camera's alone, or half of the old one's (decision 10)."""

from __future__ import annotations

from clst_runtime.evaluation.unlabelled import NoEstimate
from clst_train.compute.distributed import each_alone, on_any_rank, report, together
from clst_train.engine.run import Run
from clst_train.inspection.verdict import estimate
from clst_train.models.checkpoint_backend import TorchBackend, segmenter_backend


def backend_of(run: Run) -> TorchBackend:
    """The network as it is now, in a copy."""
    model = run.config.model
    return segmenter_backend(
        run.segmenter, network=model.network, classes=run.classes, input_hw=model.input_hw, fit=run.config.fit
    )


def need_the_old(run: Run, old: TorchBackend) -> bool:
    """Whether the new camera's statistics alone make the network worse than it was with its `old` ones; reported.

    An estimate without labels, as of `clst-verdict`, by the first rank. Where there is none, they are taken to.
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
        report(f"statistics: pseudo-labels and the result have half of the old camera's; no estimate: {error.message}")
        return True
    worse, (low, high) = found.points < 0, found.interval
    share = "half of them and half of the old camera's" if worse else "them"
    report(
        f"statistics: the new camera's alone change mIoU by about {found.points:+.1f} points (estimated without "
        f"labels, 95 % interval {low:+.1f} to {high:+.1f}); pseudo-labels and the result have {share}"
    )
    return worse
