import math

import pytest
import torch

from clst_train.inspection.diagnostics import CollapseWatch, Diagnostics
from clst_train.method.prototypes import ClassMeans, Prototypes
from clst_train.method.teachers import SoftLabels
from tests.support.tiny import CPU, SIZE_HW, TinySegmenter

NOBODY = Prototypes(3, 2, CPU)


def said(*classes: int, sure: float = 0.8) -> torch.Tensor:
    """1,3,1,W probabilities: each cell's class with `sure`, the others share the rest."""
    p = torch.full((1, 3, 1, len(classes)), (1 - sure) / 2)
    for place, index in enumerate(classes):
        p[0, index, 0, place] = sure
    return p


def soft_labels(
    *classes: int,
    now: tuple[int, ...] | None = None,
    before: tuple[int, ...] | None = None,
    hidden: tuple[int, ...] | None = None,
) -> SoftLabels:
    return SoftLabels(
        probabilities=said(*classes),
        now=None if now is None else said(*now),
        before=None if before is None else said(*before),
        hidden=None if hidden is None else torch.tensor([[hidden]]) > 0,
    )


def test_shares_confidence_and_agreement_are_counted_by_hand():
    """Two steps of four cells: classes 0 0 1 2 and 0 0 0 1; the network agrees in 3 and in 2 of four."""
    found = Diagnostics(3, CPU)
    found.see(soft_labels(0, 0, 1, 2, now=(0, 0, 1, 1)), None, NOBODY)
    found.see(soft_labels(0, 0, 0, 1, now=(0, 0, 2, 2)), None, NOBODY)
    means, shares, images = found.read()
    assert shares == pytest.approx([5 / 8, 2 / 8, 1 / 8])
    assert means["confidence"] == pytest.approx(0.8)
    assert means["agreement"] == pytest.approx(5 / 8)
    assert images == 2
    assert math.isnan(means["flip_rate"])  # each image was seen for the first time
    assert math.isnan(found.read()[0]["confidence"])  # and everything starts afresh


def test_the_flip_rate_is_that_of_images_that_are_predicted_again():
    """One image changes one cell of four, another is new, a mere reading of a third counts nothing."""
    found = Diagnostics(3, CPU)
    found.see(soft_labels(0, 0, 1, 1, before=(0, 0, 1, 2)), None, NOBODY)
    found.see(SoftLabels(probabilities=said(2, 2, 2, 2), before=torch.zeros(1, 3, 1, 4)), None, NOBODY)
    found.see(soft_labels(2, 2, 2, 2), None, NOBODY)
    assert found.read()[0]["flip_rate"] == pytest.approx(1 / 4)


def test_under_the_ignore_mask_nothing_is_counted():
    found = Diagnostics(3, CPU)
    right = (0, 0, 1, 1)
    found.see(soft_labels(0, 1, 2, 2, now=(0, 1, 0, 0), hidden=right), None, NOBODY)
    found.see(soft_labels(0, 0, 1, 1, before=(0, 1, 2, 2), hidden=right), None, NOBODY)
    means, shares, _ = found.read()
    assert shares == pytest.approx([3 / 4, 1 / 4, 0.0])
    assert (means["agreement"], means["flip_rate"]) == (1.0, 0.5)


def test_everything_ignored_is_nothing_to_be_seen():
    found = Diagnostics(3, CPU)
    found.see(soft_labels(0, 1, before=(1, 1), hidden=(1, 1)), None, NOBODY)
    means, shares, _ = found.read()
    assert all(math.isnan(value) for value in [*means.values(), *shares])


def test_distances_in_the_projection_space_are_cosines_counted_by_hand():
    """Prototypes at 0° and 90°, class 2 never seen; a target mean of class 0 at 60° has cosines 0.5 and 0.866."""
    prototypes = Prototypes(3, 2, CPU)
    vectors = torch.tensor([[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]]])
    prototypes.update(ClassMeans(means=vectors, present=torch.tensor([[True, True, False]])))
    mean = torch.tensor([[[0.5, math.sqrt(0.75)], [0.0, 1.0], [1.0, 0.0]]])
    found = Diagnostics(3, CPU)
    found.see(
        SoftLabels(probabilities=None),
        ClassMeans(means=mean, present=torch.tensor([[True, False, True]])),
        prototypes,
    )
    means = found.read()[0]
    assert means["own_cosine"] == pytest.approx(0.5, abs=1e-6)
    assert means["other_cosine"] == pytest.approx(math.sqrt(0.75), abs=1e-6)
    assert means["separation"] == pytest.approx(1.0, abs=1e-6)


def test_a_single_prototype_has_no_nearest_other_one():
    prototypes = Prototypes(2, 2, CPU, momentum=0.9)
    batch = ClassMeans(means=torch.tensor([[[1.0, 0.0], [0.0, 1.0]]]), present=torch.tensor([[True, False]]))
    prototypes.update(batch)
    found = Diagnostics(2, CPU)
    found.see(SoftLabels(probabilities=None), batch, prototypes)
    means = found.read()[0]
    assert means["own_cosine"] == pytest.approx(1.0)
    assert math.isnan(means["other_cosine"])
    assert math.isnan(means["separation"])


def test_the_counters_go_on_from_a_checkpoint(tmp_path):
    first, second = Diagnostics(3, CPU), Diagnostics(3, CPU)
    first.see(soft_labels(0, 1, now=(0, 0), before=(0, 0)), None, NOBODY)
    torch.save(first.state_dict(), tmp_path / "d.pt")
    second.load_state_dict(torch.load(tmp_path / "d.pt", weights_only=True))
    for each in (first, second):
        each.see(soft_labels(1, 1, before=(1, 1)), None, NOBODY)
    one, two = first.read(), second.read()
    assert one[0]["flip_rate"] == two[0]["flip_rate"] == 0.25
    assert one[1:] == two[1:] == ([0.25, 0.75, 0.0], 2)


def test_the_start_is_what_the_first_network_predicts():
    network = TinySegmenter()
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.copy_(torch.tensor([0.0, 7.0, 0.0]))
    found = Diagnostics(3, CPU)
    found.begin(network, [(torch.randn(2, 3, *SIZE_HW), None)], torch.autocast("cpu", enabled=False))
    assert found.start.tolist() == [0.0, 1.0, 0.0]
    found.start.zero_()
    found.begin(network, [], torch.autocast("cpu", enabled=False))
    assert found.start.tolist() == [0.0, 0.0, 0.0]


def test_what_is_never_learned_from_does_not_count_for_the_start():
    """The network names the strongest channel; of six columns the left four are class 0, and of those three count."""
    network = TinySegmenter()
    network.forward = lambda images: images
    images = torch.zeros(1, 3, *SIZE_HW)
    images[:, 0, :, :4], images[:, 2, :, 4:] = 1.0, 1.0
    covered = torch.zeros(1, *SIZE_HW, dtype=torch.bool)
    covered[:, :, 0] = True
    found = Diagnostics(3, CPU)
    found.begin(network, [(images, covered)], torch.autocast("cpu", enabled=False))
    assert found.start.tolist() == pytest.approx([3 / 5, 0.0, 2 / 5])


def watch() -> CollapseWatch:
    return CollapseWatch(("road", "car", "pole"), (0.7, 0.296, 0.004))


def test_a_class_that_vanishes_is_named_once_after_enough_images():
    watching = watch()
    assert watching.warnings(0.1, [0.85, 0.15, 0.0], 64) == []  # the pole was too rare at the start to count
    assert watching.warnings(0.1, [0.89, 0.001, 0.109], 63) == []  # too few images to say so
    (line,) = watching.warnings(0.1, [0.89, 0.001, 0.109], 1)
    assert line.startswith("warning: car (29.6 % at the start) vanished from the pseudo-labels; ")
    assert "\n" not in line
    assert watching.warnings(0.1, [0.89, 0.001, 0.109], 64) == []


def test_few_images_that_lack_a_class_honestly_are_averaged_with_the_others():
    watching = watch()
    assert watching.warnings(0.0, [0.8, 0.0, 0.2], 32) == []
    assert watching.warnings(0.0, [0.8, 0.1, 0.1], 32) == []


def test_one_class_that_takes_over_is_named_unless_it_was_so_from_the_start():
    (line,) = watch().warnings(0.0, [0.91, 0.09, 0.0], 64)
    assert line.startswith("warning: road is 91 % of the pseudo-labels (70 % at the start)")
    assert CollapseWatch(("sky", "bird"), (0.95, 0.05)).warnings(0.0, [0.97, 0.03], 64) == []


def test_labels_that_never_settle_are_said_after_five_looks_in_a_row():
    watching, shares = watch(), [0.7, 0.3, 0.0]
    for rate in (0.4, 0.4, 0.4, 0.4, 0.2, 0.4, math.nan, 0.4, 0.4, 0.4):
        assert watching.warnings(rate, shares, 64) == []
    assert watching.warnings(0.4, shares, 63) == []
    (line,) = watching.warnings(0.5, shares, 1)  # the mean of both readings of this look
    assert "45 % of the pseudo-labels still change from visit to visit" in line
    assert watching.warnings(0.4, shares, 64) == []


def test_readings_without_anything_visible_say_nothing():
    watching = watch()
    for _ in range(10):
        assert watching.warnings(math.nan, [math.nan] * 3, 64) == []
