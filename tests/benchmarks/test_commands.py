"""Networks by the documented commands: what is recorded of a command, and the table's lines."""

import sys

from benchmarks.export.commands import cells, run


def test_of_a_command_that_fails_the_last_line_is_kept():
    found = run([sys.executable, "-c", "import sys; print('a\\nerror: b', file=sys.stderr); sys.exit(6)"])
    assert (found["exit_code"], found["error"]) == (6, "error: b")
    assert "error" not in run([sys.executable, "-c", ""])


def test_a_line_of_a_file_that_is_proved_and_of_one_that_is_refused():
    network = {"network": "smp:Unet", "steps": 10, "versions": {"torch": "2.14.1"}}
    proved = {"precision": "fp16", "exit_code": 0, "agreement": 0.99996, "bytes": 3 << 19, "layers": 89}
    assert cells(network, proved) == ("smp:Unet", "10", "fp16", "100.00 %", "1.5", "89 layers", "2.14.1")
    refused = {"precision": "int8", "exit_code": 6, "error": "error: b"}
    assert cells(network, refused)[3] == "refused: error: b"
