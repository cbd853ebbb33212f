"""The result's weights lie between those that self-training begins with and those that it ends with."""

import pytest
import torch
from tests.miniature import drawn_cameras
from torch import nn

from clst_train.checkpoint import load_checkpoint
from clst_train.start_weights import StartWeights
from clst_train.training import start_run

SMALL = (
    *("augmentation.crop_hw=[64,64]", "adaptation.batch=2", "adaptation.iterations=4", "source.iterations=1"),
    *("source.batch=2", "run.log_every=1", "run.precision=fp32", "run.threads=1", "adaptation.learning_rate=1e-2"),
)


def network(weight, statistic=0.0):
    one = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1))
    with torch.no_grad():
        one[0].weight.fill_(weight)
        one[1].running_mean.fill_(statistic)
    return one


@pytest.mark.parametrize(("share", "weight"), [(0.25, 5.0), (0.0, 6.0), (1.0, 2.0)])
def test_each_weight_goes_its_share_of_the_way_back(share, weight):
    """From 2 to 6; a quarter of 2 and three quarters of 6 are 5. Statistics are not weights."""
    one, kept = network(2.0, statistic=1.0), StartWeights(share)
    kept.begin(one)
    with torch.no_grad():
        one[0].weight.fill_(6.0)
        one[1].running_mean.fill_(3.0)
    kept.join(one)
    assert one[0].weight.item() == weight
    assert one[1].running_mean.item() == 3.0
    assert one[0].weight.requires_grad


def test_a_network_stays_as_it_is_where_nothing_was_remembered():
    one = network(6.0)
    StartWeights(0.5).join(one)
    assert one[0].weight.item() == 6.0


def test_what_is_remembered_goes_through_a_checkpoint():
    one, kept, other = network(2.0), StartWeights(0.5), StartWeights(0.5)
    kept.begin(one)
    other.load_state_dict(kept.state_dict())
    with torch.no_grad():
        one[0].weight.fill_(6.0)
    other.join(one)
    assert one[0].weight.item() == 4.0


@pytest.fixture(scope="module")
def cameras(tmp_path_factory):
    return drawn_cameras(tmp_path_factory.mktemp("cameras"), train=4, val=2)


@pytest.fixture(scope="module")
def source(cameras, tmp_path_factory):
    out = tmp_path_factory.mktemp("source") / "run"
    options = {"source": str(cameras / "old"), "size": "64x96", "settings": SMALL}
    return start_run(recipe="demo", out=out, init=None, resume=None, options=options).source


def adapted(cameras, source, out, *settings):
    """The weights of a run's result."""
    places = {"source": str(cameras / "old"), "target": (str(cameras / "new" / "images" / "train"),)}
    folder = start_run(
        recipe="demo", out=out, init=source, resume=None, options={**places, "settings": (*SMALL, *settings)}
    )
    return load_checkpoint(folder.adapted).segmenter_state


def test_a_run_ends_between_the_network_it_was_given_and_the_one_it_made(cameras, source, tmp_path):
    """Half-way, weight by weight; the statistics are those of the joined network, not the mean of two."""
    given, made = load_checkpoint(source).segmenter_state, adapted(cameras, source, tmp_path / "made")
    joined = adapted(cameras, source, tmp_path / "joined", "adaptation.start_share=0.5")
    weights = [name for name in made if "running" not in name and "num_batches" not in name]
    assert any(not torch.equal(given[name], made[name]) for name in weights)
    for name in weights:
        torch.testing.assert_close(joined[name], (given[name] + made[name]) / 2, rtol=0, atol=1e-6)
    assert any("running" in name and not torch.equal(joined[name], made[name]) for name in made)


def test_what_is_scored_at_the_end_of_a_run_is_its_result(cameras, source, tmp_path, monkeypatch):
    """The weights of the last validation are those of the checkpoint."""
    import clst_train.run as run

    scored, score = [], run.validation_miou

    def noted(segmenter, *others):
        scored.append({name: value.detach().clone() for name, value in segmenter.named_parameters()})
        return score(segmenter, *others)

    monkeypatch.setattr(run, "validation_miou", noted)
    places = {"source": str(cameras / "old"), "target": (str(cameras / "new" / "images" / "train"),)}
    options = {**places, "val": str(cameras / "new"), "settings": (*SMALL, "adaptation.start_share=0.5")}
    folder = start_run(recipe="demo", out=tmp_path / "run", init=source, resume=None, options=options)
    result = load_checkpoint(folder.adapted).segmenter_state
    for name, value in scored[-1].items():
        assert torch.equal(value, result[name]), name


def test_with_entropy_first_the_start_is_where_labels_begin(cameras, source, tmp_path, monkeypatch):
    """Two steps of entropy, two of labels: not the network that was given, which has moved on by then."""
    given, begun, begin = load_checkpoint(source).segmenter_state, [], StartWeights.begin

    def noted(self, one):
        begun.append({name: value.detach().clone() for name, value in one.named_parameters()})
        begin(self, one)

    monkeypatch.setattr(StartWeights, "begin", noted)
    settings = ("adaptation.entropy_first=0.5", "adaptation.start_share=0.5")
    adapted(cameras, source, tmp_path / "run", *settings)
    assert len(begun) == 1
    assert any(not torch.equal(value, given[name]) for name, value in begun[0].items())
