import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from clst_runtime.errors import ConfigError
from clst_train.config import AdaptationConfig
from clst_train.method.batchnorm import FollowedStatistics, statistics_layers
from clst_train.method.labelling import soft_labels_of
from clst_train.method.step import adaptation_step
from clst_train.method.teachers import MeanTeacher, probabilities_of
from tests.support.tiny import TinySegmenter, batches, learner, observed


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


def test_the_mean_teacher_has_the_students_buffers_of_every_kind():
    student = TinySegmenter()
    teacher = MeanTeacher(student)
    student.norm.running_mean.fill_(3.0)
    student.norm.num_batches_tracked.fill_(7)
    teacher.follow(student)
    assert teacher.network.norm.running_mean.tolist() == [3.0] * 3
    assert teacher.network.norm.num_batches_tracked.item() == 7


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


def test_a_teacher_predicts_by_the_statistics_it_is_given_and_else_by_the_networks_own():
    """Own: mean 1, variance 4; followed with momentum 0 from mean 0, variance 1. No mode, no own statistic moves."""
    torch.manual_seed(0)
    network, images = TinySegmenter().train(), torch.randn(2, 3, 4, 6)
    statistics, plain = FollowedStatistics(network, 0.0), torch.autocast("cpu", enabled=False)
    network.norm.running_mean.fill_(1.0)
    network.norm.running_var.fill_(4.0)
    for given, mean, variance in ((None, 1.0, 4.0), (statistics, 0.0, 1.0)):
        said = probabilities_of(network, images, plain, given)
        features = torch.relu(network.body((images - mean) / (variance + 1e-5) ** 0.5))
        assert torch.allclose(said, network.head(features).softmax(1), atol=1e-5)
        assert not said.requires_grad
        assert network.training
    assert network.norm.running_mean.tolist() == [1.0] * 3


def test_a_compiled_pass_is_not_asked_where_statistics_follow(monkeypatch):
    """Compiled code would keep the statistics of its first call."""
    network, plain = TinySegmenter(), torch.autocast("cpu", enabled=False)
    monkeypatch.setattr(network, "forward", lambda images: pytest.fail("the compiled pass was asked"))
    statistics = FollowedStatistics(network, 0.5)
    probabilities_of(network, torch.ones(2, 3, 4, 6), plain, statistics)
    assert statistics.means[0].tolist() == [0.5] * 3


def test_pseudo_labels_are_by_the_statistics_of_whole_target_images_whatever_is_trained_on():
    """A bright source must not move them: after a step they lie a tenth of the way from 0 to the target's mean.

    A step that predicts nothing does not move them.
    """
    one, (source, target) = learner(class_mix=False), batches()
    source = dataclasses.replace(source, images=np.full_like(source.images, 255))
    for predicts in (True, False):
        adaptation_step(one, source, target, target_weight=1.0, predicts=predicts)
        assert one.statistics is not None
        assert torch.allclose(one.statistics.means[0], 0.1 * one.tensor(target.whole).mean((0, 2, 3)), atol=1e-6)


def test_without_such_statistics_labels_are_by_the_networks_own():
    """Its means of 4 lower the images by 4; the batch's own would make their mean 0."""
    one, (_, target) = learner(class_mix=False), batches()
    network = one.mean_teacher.network
    statistics_layers(network)[0].running_mean.fill_(4.0)
    found = soft_labels_of(dataclasses.replace(one, statistics=None), target, predicts=True).now
    assert found is not None
    assert torch.allclose(found, probabilities_of(one.segmenter, one.tensor(target.whole) - 4.0, one.autocast))


def test_the_mean_teacher_says_what_it_predicts_now_and_the_ensemble_what_it_has_said_on_average():
    one = learner(teacher="mean_teacher", class_mix=False)
    fill(one.segmenter, 0.0)
    with torch.no_grad():
        one.segmenter.head.bias.copy_(torch.tensor([0.0, 0.0, 5.0]))  # class 2 everywhere
    one.mean_teacher.follow(one.segmenter)
    result = adaptation_step(one, *batches(), target_weight=1.0)
    assert set(result.pseudo_labels.flatten().tolist()) == {2}
    with torch.no_grad():
        one.segmenter.head.bias.copy_(torch.tensor([9.0, 0.0, 0.0]))
    one.mean_teacher.follow(one.segmenter)
    # t = 1: the mean of both biases is (4.5, 0, 2.5), so the teacher says 0
    assert set(adaptation_step(one, *batches(), target_weight=1.0).pseudo_labels.flatten().tolist()) == {0}
    other = learner(ensemble_momentum=0.9, class_mix=False)
    fill(other.segmenter, 0.0)
    for bias in ([0.0, 0.0, 5.0], [9.0, 0.0, 0.0]):
        with torch.no_grad():
            other.segmenter.head.bias.copy_(torch.tensor(bias))
        other.mean_teacher.follow(other.segmenter)
        found = soft_labels_of(other, batches()[1], predicts=True)
    # Class 2 in softmax (0, 0, 5) and (4.5, 0, 2.5): (0.09·0.9867 + 0.1·0.1180) / 0.19 = 0.5295
    assert found.probabilities[0, :, 0, 0].tolist() == pytest.approx([0.4622, 0.0082, 0.5295], abs=1e-4)


def test_without_a_teacher_no_target_pixel_has_a_label():
    one = learner(teacher="none", self_training_weight=0.0, contrastive_weight=0.0, class_mix=False)
    result = adaptation_step(one, *batches(), target_weight=1.0)
    assert set(result.pseudo_labels.flatten().tolist()) == {255}
    assert result.loss.item() == pytest.approx(result.parts["source"].item())
    assert math.isnan(observed(one, result).read()[0]["confidence"])


def test_only_a_step_that_predicts_is_a_visit_and_flips_are_counted_from_the_second_on():
    one, (source, target) = learner(), batches()
    diagnostics, visits = observed(one), 0
    for predicts in (True, False, True, False, False, True):
        result = adaptation_step(one, source, target, target_weight=1.0, predicts=predicts)
        visits += predicts
        assert one.ensemble.visits.tolist() == [visits, visits]
        diagnostics.see(result.soft_labels, result.target_means, one.prototypes)
        means, _, _ = diagnostics.read()
        assert math.isnan(means["agreement"]) == (not predicts)
        assert math.isnan(means["flip_rate"]) == (not predicts or visits == 1)


def test_a_step_that_predicts_nothing_learns_from_the_stored_average():
    one, (source, target) = learner(class_mix=False), batches()
    first = adaptation_step(one, source, target, target_weight=1.0).pseudo_labels
    with torch.no_grad():
        one.mean_teacher.network.head.bias.copy_(torch.tensor([0.0, 0.0, 50.0]))
    assert torch.equal(adaptation_step(one, source, target, target_weight=1.0, predicts=False).pseudo_labels, first)


def test_balanced_classes_change_only_the_self_training():
    source, target = batches()
    plain, balanced = (
        adaptation_step(learner(class_balance=g, class_mix=False), source, target, target_weight=1.0).parts
        for g in (0.0, 1.0)
    )
    assert plain["source"] == balanced["source"]
    twin = learner()
    with torch.no_grad():
        twin.segmenter(twin.tensor(source.images))
        logits = twin.segmenter(twin.tensor(target.crops))
    labels = soft_labels_of(twin, target, predicts=True).probabilities.argmax(1)
    shares = [max(0.01, float((labels == c).float().mean())) for c in range(3)]
    raw = torch.tensor([1 / share for share in shares])[labels]
    expected = (F.cross_entropy(logits, labels, reduction="none") * raw / raw.mean()).mean()
    assert balanced["self_training"].item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"teacher": "oracle"}, "adaptation.teacher = 'oracle'; give ensemble, mean_teacher or none"),
        ({"teacher": "none"}, "self_training_weight = 1.0 needs pseudo-labels"),
        ({"teacher": "none", "self_training_weight": 0.0}, "contrastive_weight = 0.1 needs pseudo-labels"),
        ({"class_balance": -1.0}, "class_balance = -1.0; give 0 or more"),
        ({"entropy_first": 1.1}, "entropy_first = 1.1; give a probability"),
        ({"ensemble_momentum": 1.0}, "ensemble_momentum = 1.0; give 0 up to below 1"),
        ({"ensemble_momentum": -0.1}, "ensemble_momentum = -0.1; give 0 up to below 1"),
        ({"entropy_first": -0.1}, "entropy_first = -0.1; give a probability"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        AdaptationConfig(**settings)
