"""Tables of changes of camera, from a result file that can be read at a glance."""

from benchmarks.report.readme_table import overview, rows_of


def row(title, miou, *, recovery=None, ahead=None, commit="abc"):
    found = {"title": title, "miou": [miou, miou + 2], "miou_mean": miou + 1, "miou_std": 1.41, "recovery": recovery}
    found["runs"] = [{"commit": commit, "seconds": 60.0}, {"commit": commit, "seconds": None}]
    lead = {"mean": ahead, "std": 0.2, "low": 1.0, "high": 3.0}
    return found | ({"clst_ahead": lead} if ahead is not None else {})


def result():
    return {
        "name": "p", "title": "P", "size": "64x96", "source_steps": 30, "steps": 10, "commit": "abc",
        "oracle": "oracle_long",
        "methods": {
            "source": row("old network", 40, recovery=0.0, ahead=8),
            "statistics": row("BatchNorm statistics", 42, recovery=0.2, ahead=6),
            "entropy": row("entropy", 46, recovery=0.6, ahead=2, commit="def"),
            "clst": row("CLST", 48, recovery=0.8) | {"choice": row("", 60)},
            "oracle_long": row("oracle", 50, recovery=1.0, ahead=-2),
        },
    }  # fmt: skip


def test_the_overview_has_the_best_baseline_and_the_oracle_that_recovery_is_measured_by():
    assert overview([result()])[2:] == [
        "| P | 41.0 ± 1.4 | 47.0 ± 1.4 (entropy) | 49.0 ± 1.4 | 51.0 ± 1.4 | 80 % | +2.0 ± 0.2 (+1.0 … +3.0) |"
    ]
    assert overview([]) == []


def test_merged_groups_have_a_line_of_their_own():
    second = {name: each | {"miou_mean": each["miou_mean"] + 10} for name, each in result()["methods"].items()}
    lines = overview([result() | {"merged": second}])
    assert len(lines) == 4
    assert "| 59.0 ± 1.4 | 61.0 ± 1.4 |" in lines[3]


def test_a_row_of_another_commit_says_so_and_one_seed_has_no_spread():
    one = result()
    one["methods"]["statistics"] |= {"miou": [42], "miou_mean": 42.0, "miou_std": None}
    lines = rows_of(one)
    assert "| BatchNorm statistics | 42.0 | 20 % | +6.0 ± 0.2 (+1.0 … +3.0) |  | 1 | 1 |" in lines
    assert "| entropy (commit def) | 47.0 ± 1.4 | 60 % | +2.0 ± 0.2 (+1.0 … +3.0) |  | 2 | 1 |" in lines
    assert "| CLST | 49.0 ± 1.4 | 80 % |  | 61.0 ± 1.4 | 2 | 1 |" in lines
