import pytest

from clst_runtime.timing import summarise_ms


def test_summary_counted_by_hand():
    summary = summarise_ms([1_000_000, 2_000_000, 3_000_000])
    assert (summary["min"], summary["median"], summary["max"], summary["mean"]) == (1.0, 2.0, 3.0, 2.0)
    assert summary["p90"] == pytest.approx(2.8)
    assert summary["cov"] == pytest.approx((2 / 3) ** 0.5 / 2)


def test_one_sample_and_none():
    assert summarise_ms([5_000_000])["p99"] == 5.0
    assert summarise_ms([]) == {}
