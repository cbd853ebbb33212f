import numpy as np
import pytest

from clst_runtime.live.latency import LatencyHistogram, summarise_ms


def test_summary_counted_by_hand():
    summary = summarise_ms([1_000_000, 2_000_000, 3_000_000])
    assert (summary["min"], summary["median"], summary["max"], summary["mean"]) == (1.0, 2.0, 3.0, 2.0)
    assert summary["p90"] == pytest.approx(2.8)
    assert summary["cov"] == pytest.approx((2 / 3) ** 0.5 / 2)


def test_one_sample_and_none():
    assert summarise_ms([5_000_000])["p99"] == 5.0
    assert summarise_ms([]) == {}


def test_a_histogram_says_what_the_samples_say_within_half_a_per_cent():
    samples = np.random.default_rng(0).lognormal(16, 0.7, 5000).astype(np.int64)
    histogram = LatencyHistogram()
    for sample in samples:
        histogram.add(int(sample))
    told, true = histogram.summary_ms(), summarise_ms(samples.tolist())
    assert told.keys() == true.keys()
    for name in ("min", "mean", "max", "cov"):
        assert told[name] == pytest.approx(true[name], rel=1e-9)
    for name in ("median", "p90", "p95", "p99"):
        assert told[name] == pytest.approx(true[name], rel=0.006)


def test_a_histogram_of_one_of_none_and_of_what_lies_outside():
    histogram = LatencyHistogram()
    assert histogram.summary_ms() == {}
    histogram.add(5_000_000)
    assert set(histogram.summary_ms().values()) == {5.0, 0.0}
    for nanoseconds in (0, 10**13):
        histogram.add(nanoseconds)
    assert (histogram.summary_ms()["min"], histogram.summary_ms()["max"]) == (0.0, 1e7)
    assert histogram.percentile_ns(1.0) == pytest.approx(1e12, rel=0.02), "the last bucket is the longest it knows"
