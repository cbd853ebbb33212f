"""Threads of PyTorch wait for one another without spinning, unless somebody has chosen otherwise."""

import os
import subprocess
import sys

import pytest

from clst_runtime.waiting import wait_passively

PROGRAM = """
import os, sys
from importlib.metadata import entry_points

class Hook:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("policy:", os.environ.get("OMP_WAIT_POLICY"), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Hook())
(command,) = entry_points(group="console_scripts", name=sys.argv[1])
command.load()(sys.argv[2:])
"""


@pytest.mark.parametrize(
    "line",
    [
        ("clst-train", "--source", "x"),
        ("clst-export", "x.pt", "--onnx"),
        ("clst-demo",),
        ("clst-data", "features", "x"),
        ("clst-eval", "{folder}/x.pt", "--data", "x"),
        ("clst-bench", "{folder}/x.pt"),
    ],
    ids=lambda line: line[0],
)
def test_it_is_set_before_pytorch_is_looked_for(line, tmp_path):
    (tmp_path / "x.pt").write_bytes(b"")
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    call = [sys.executable, "-c", PROGRAM, *(part.format(folder=tmp_path) for part in line)]
    done = subprocess.run(call, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.stdout == "policy: passive\n", done.stderr


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"])
def test_who_has_chosen_keeps_it(name, monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    monkeypatch.setenv(name, "7")
    wait_passively()
    assert os.environ[name] == "7"
    assert name == "OMP_WAIT_POLICY" or "OMP_WAIT_POLICY" not in os.environ
