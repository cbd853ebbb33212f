import math

import pytest
import torch
from tests.train.tiny import TinySegmenter, batches, learner
from torch.nn import functional as F

from clst_runtime.errors import ConfigError
from clst_train.config import AdaptationConfig
from clst_train.step import adaptation_step
from clst_train.teachers import MeanTeacher, probabilities_of


def fill(network, value):
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(value)


def values(network):
    return {round(float(v), 6) for p in network.parameters() for v in p.flatten()}


def test_the_mean_teacher_copies_then_averages_then_follows_at_its_momentum():
    """Students 4, 8, 2, 1 with momentum 0.6: t=0 copy 4; t=1 m=½ → 6; t=2 m=0.6 → 4.4; t=3 m=0.6 → 3.04."""
    student = TinySegmenter()
    teacher = MeanTeacher(student, 0.6)
    expected = [4.0, 6.0, 0.6 * 6 + 0.4 * 2, 0.6 * 4.4 + 0.4 * 1]
    for new, average in zip((4.0, 8.0, 2.0, 1.0), expected, strict=True):
        fill(student, new)
        teacher.follow(student)
        assert values(teacher.network) == {round(average, 6)}
    assert not any(parameter.requires_grad for parameter in teacher.network.parameters())


def test_the_mean_teacher_goes_on_from_its_state_to_the_bit(tmp_path):
    torch.manual_seed(0)
    student = TinySegmenter()
    teacher = MeanTeacher(student, 0.9)
    teacher.follow(student)
    torch.save(teacher.state_dict(), tmp_path / "t.pt")
    other = MeanTeacher(TinySegmenter(), 0.9)
    other.load_state_dict(torch.load(tmp_path / "t.pt", weights_only=True))
    fill(student, 0.5)
    for each in (teacher, other):
        each.follow(student)
    for one, two in zip(teacher.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(one, two)
    assert teacher.steps == other.steps == 2


def test_a_teacher_predicts_by_the_batch_and_neither_reads_nor_moves_running_statistics():
    torch.manual_seed(0)
    network, images = TinySegmenter().eval(), torch.randn(2, 3, 4, 6)
    plain = torch.autocast("cpu", enabled=False)
    first = probabilities_of(network, images, plain)
    network.norm.running_mean.fill_(1000.0)
    assert torch.equal(probabilities_of(network, images, plain), first)
    assert network.norm.running_mean.tolist() == [1000.0] * 3
    normalised = F.batch_norm(images, None, None, network.norm.weight, network.norm.bias, training=True)
    assert torch.allclose(first, network.head(torch.relu(network.body(normalised))).softmax(1), atol=1e-6)
    assert not first.requires_grad


def test_the_mean_teacher_speaks_in_the_ensembles_place():
    one = learner(teacher="mean_teacher", class_mix=False)
    fill(one.segmenter, 0.0)
    with torch.no_grad():
        one.segmenter.head.bias.copy_(torch.tensor([0.0, 0.0, 5.0]))  # class 2 everywhere
    result = adaptation_step(one, *batches(), target_weight=1.0)
    assert set(result.pseudo_labels.flatten().tolist()) == {2}
    with torch.no_grad():
        one.segmenter.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    # t = 1: the mean of both biases is (4.5, 0, 2.5), so the teacher says 0
    assert set(adaptation_step(one, *batches(), target_weight=1.0).pseudo_labels.flatten().tolist()) == {0}
    assert one.ensemble.visits.tolist() == [0, 0]


def test_without_a_teacher_no_target_pixel_has_a_label_and_only_the_entropy_pulls():
    settings = {"teacher": "none", "self_training_weight": 0.0, "contrastive_weight": 0.0, "class_mix": False}
    one = learner(entropy_weight=0.5, **settings)
    result = adaptation_step(one, *batches(), target_weight=1.0)
    assert set(result.pseudo_labels.flatten().tolist()) == {255}
    assert result.loss.item() == pytest.approx((result.parts["source"] + 0.5 * result.parts["entropy"]).item())
    assert math.isnan(one.diagnostics.read()[0]["confidence"])
    with torch.no_grad():
        twin = learner(**settings)
        expected = _entropy(twin, batches()[1])
    assert result.parts["entropy"].item() == pytest.approx(expected, abs=1e-6)


def _entropy(one, target):
    p = one.segmenter(one.tensor(target.crops)).softmax(1)
    return float(-(p * p.log()).sum(1).mean() / torch.tensor(3.0).log())


def test_under_the_ignore_mask_there_is_no_entropy():
    one = learner(teacher="none", self_training_weight=0.0, contrastive_weight=0.0, entropy_weight=1.0, class_mix=False)
    assert adaptation_step(one, *batches(ignored=True), target_weight=1.0).parts["entropy"].item() == 0.0


def test_pasted_source_pixels_have_no_entropy():
    """Half of the student's pixels are pasted: the mean is over the other ones alone."""
    settings = {"teacher": "none", "self_training_weight": 0.0, "contrastive_weight": 0.0, "entropy_weight": 1.0}
    source, target = batches()
    result = adaptation_step(learner(**settings), source, target, target_weight=1.0)
    twin, mask = learner(**settings), torch.from_numpy(source.mixing)
    mixed = torch.where(mask[:, None], twin.tensor(source.images), twin.tensor(target.crops))
    with torch.no_grad():
        p = twin.segmenter(mixed).softmax(1)
    expected = -(p * p.log()).sum(1)[~mask].mean() / torch.tensor(3.0).log()
    assert result.parts["entropy"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_confident_share_weighs_the_targets_own_pixels_and_not_the_pasted_ones():
    """The share of sure cells s: (Σ own s·CE + Σ pasted CE) / all pixels, counted by a plain loop."""
    chosen = {"teacher": "mean_teacher", "contrastive_weight": 0.0, "confidence_threshold": 0.4}
    source, target = batches()
    result = adaptation_step(
        learner(**chosen, pseudo_label_weighting="confident_share"), source, target, target_weight=1.0
    )
    twin = learner(**chosen)
    said = probabilities_of(twin.segmenter, twin.tensor(target.whole), twin.autocast)
    share = float((said.amax(1) > 0.4).sum()) / said[:, 0].numel()
    assert 0.1 < share < 0.9
    mask = torch.from_numpy(source.mixing)
    with torch.no_grad():
        twin.segmenter(twin.tensor(source.images))
        logits = twin.segmenter(torch.where(mask[:, None], twin.tensor(source.images), twin.tensor(target.crops)))
    labels = torch.where(mask, torch.from_numpy(source.labels).long(), said.argmax(1))
    terms = F.cross_entropy(logits, labels, reduction="none")
    expected = (terms[mask].sum() + share * terms[~mask].sum()) / labels.numel()
    assert result.parts["self_training"].item() == pytest.approx(expected.item(), abs=1e-6)


def test_the_ensemble_is_asked_in_every_nth_step_and_for_images_never_visited():
    one, (source, target) = learner(ensemble_every=3), batches()
    for iteration, visits in ((1, 1), (2, 1), (3, 2), (4, 2), (5, 2), (6, 3)):
        adaptation_step(one, source, target, target_weight=1.0, iteration=iteration)
        assert one.ensemble.visits.tolist() == [visits, visits]
        means, _, _ = one.diagnostics.read()
        assert math.isnan(means["agreement"]) == (iteration in (2, 4, 5))
        assert math.isnan(means["flip_rate"]) == (iteration not in (3, 6))


def test_between_its_turns_the_stored_average_gives_the_labels():
    one, (source, target) = learner(ensemble_every=2, class_mix=False), batches()
    first = adaptation_step(one, source, target, target_weight=1.0, iteration=0).pseudo_labels
    with torch.no_grad():
        one.segmenter.head.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    assert torch.equal(adaptation_step(one, source, target, target_weight=1.0, iteration=1).pseudo_labels, first)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher": "oracle"}, "adaptation.teacher = 'oracle'; give ensemble, mean_teacher, none"),
        ({"teacher": "none"}, "self_training_weight = 1.0 needs pseudo-labels"),
        ({"teacher": "none", "self_training_weight": 0.0}, "contrastive_weight = 0.1 needs pseudo-labels"),
        ({"pseudo_label_weighting": "sure"}, "give none, confident_share"),
        ({"ensemble_every": 0}, "ensemble_every = 0; give 1 or more"),
        ({"teacher_momentum": 1.0}, "teacher_momentum = 1.0; give 0 up to below 1"),
        ({"entropy_weight": -0.1}, "entropy_weight = -0.1; give 0 or more"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        AdaptationConfig(**settings)
