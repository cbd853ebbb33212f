"""What every result file is quoted with."""

import json

from benchmarks import record


def test_a_result_has_date_commit_and_machine_and_an_empty_commit_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    found = record.provenance()
    assert list(found) == ["date", "commit", "machine"]
    assert found["commit"] == ""
    assert found["machine"]["cores"] >= 1


def test_a_result_is_json_that_git_shows_line_by_line(tmp_path):
    record.write_result(tmp_path / "speed.json", {"name": "speed", "ms": [1.5]})
    assert (tmp_path / "speed.json").read_text() == '{\n "name": "speed",\n "ms": [\n  1.5\n ]\n}\n'
    assert json.loads((tmp_path / "speed.json").read_text()) == {"name": "speed", "ms": [1.5]}
