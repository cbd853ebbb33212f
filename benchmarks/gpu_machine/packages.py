"""Packages for a machine that reaches no registry: collected, cut into parts of a size, joined and installed there.

onnxruntime-gpu is a wheel of about 250 MB and TensorRT for RTX of 150 MB; where only so much travels at a time, they
go in several parts. TensorRT itself is several GB and is not among them: its steps need it installed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from clst_runtime.errors import ConfigError, MissingDependency, did_you_mean
from clst_runtime.system.files.atomic import folder_written_whole


def _extra(name: str) -> tuple[str, ...]:
    """The requirements of one of this project's extras."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    return tuple(each.partition(";")[0].strip() for each in project["optional-dependencies"][name])


SETS: dict[str, Callable[[], tuple[str, ...]]] = {
    "rtx": lambda: _extra("rtx"),
    "ort-gpu": lambda: _extra("ort-gpu"),
    "pycuda": lambda: ("pycuda", "pytools", "platformdirs", "mako", "siphash24"),
}
"""What each set holds. CUDA's and cuDNN's libraries for `ort-gpu` are those of the machine, as PyTorch brings them."""
FROM_SOURCE = "pycuda"
"""Has no wheels: it is built on the GPU machine, which needs g++ and CUDA's headers for it."""
CUDA = Path("/usr/local/cuda")
PLATFORMS = tuple(f"manylinux{each}_x86_64" for each in ("_2_28", "_2_27", "_2_17", "2014"))
_PIECE = re.compile(r"(.+)\.piece-(\d+)-of-(\d+)")


def collect(folder: Path, python: str, sets: Sequence[str], part_mib: float) -> list[str]:
    """Download the sets for that Python on x86-64 Linux and cut them into `folder`/part-1, part-2, …

    Returns:
        A line on what each part holds.

    Raises:
        ConfigError: an unknown set. MissingDependency: pip finds no such package, or there is no pip.
    """
    for name in sets:
        if name not in SETS:
            raise ConfigError(f"set {name!r} is not known; {did_you_mean(name, SETS)}")
    with folder_written_whole(folder) as made, tempfile.TemporaryDirectory(dir=folder.parent) as downloads:
        files: list[Path] = []
        for name in sets:
            for requirement in SETS[name]():
                _download(requirement, python, Path(downloads) / name)
            files += sorted((Path(downloads) / name).iterdir(), key=lambda each: each.stat().st_size)
        parts = cut(files, made, int(part_mib * 2**20))
        return [_describe(part) for part in parts]


def _download(requirement: str, python: str, into: Path) -> None:
    wanted = ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    wanted += [option for platform in PLATFORMS for option in ("--platform", platform)]
    if requirement == FROM_SOURCE:
        wanted = ["--no-binary", FROM_SOURCE]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *wanted, "-d", str(into), requirement]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode:
        raise MissingDependency(f"{requirement} for Python {python} cannot be downloaded: {_why(done.stderr)}")


def cut(files: Iterable[Path], folder: Path, part_bytes: int) -> list[Path]:
    """Copy files into folders part-1, part-2, … of at most `part_bytes` each; what does not fit goes on in the next."""
    parts: list[Path] = []
    room = 0
    for file in files:
        pieces: list[Path] = []
        with file.open("rb") as source:
            while block := source.read(room or part_bytes):
                if not room:
                    parts.append(folder / f"part-{len(parts) + 1}")
                    parts[-1].mkdir(parents=True)
                    room = part_bytes
                pieces.append(parts[-1] / f"{file.name}.piece-{len(pieces) + 1}")
                pieces[-1].write_bytes(block)
                room -= len(block)
        for piece in pieces:
            piece.rename(f"{piece}-of-{len(pieces)}")
    return parts


def joined(packages: Path, folder: Path, wanted: Callable[[Path], bool]) -> tuple[list[Path], list[str]]:
    """Wanted files whose pieces lie anywhere below `packages`, whole in `folder`; a line on each that lacks some."""
    found: dict[tuple[str, int], dict[int, Path]] = {}
    for path in sorted(packages.rglob("*.piece-*-of-*")):
        if (match := _PIECE.fullmatch(path.name)) and wanted(Path(match[1])):
            found.setdefault((match[1], int(match[3])), {})[int(match[2])] = path
    whole: list[Path] = []
    lacking: list[str] = []
    for (name, count), pieces in found.items():
        if set(pieces) != set(range(1, count + 1)):
            lacking.append(f"{name}: {len(pieces)} of {count} pieces are here")
            continue
        folder.mkdir(parents=True, exist_ok=True)
        whole.append(folder / name)
        with whole[-1].open("wb") as target:
            for number in range(1, count + 1):
                with pieces[number].open("rb") as source:
                    shutil.copyfileobj(source, target)
    return whole, lacking


def install(file: Path, site: Path) -> str:
    """Install a wheel or a source distribution into the folder `site`; empty, or in one line why not."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation"]
    command += ["--no-compile", "--upgrade", "--target", str(site), str(file)]
    # What is built here only hands bytes to the driver, so -O0 saves minutes; nvcc does not show where the headers are.
    environment = {**os.environ, "CFLAGS": "-O0", "CXXFLAGS": "-O0", "CPATH": str(CUDA / "include")}
    environment["LIBRARY_PATH"] = os.pathsep.join(str(CUDA / each) for each in ("lib64", "lib64/stubs"))
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=environment
    )
    return _why(done.stderr) if done.returncode else ""


def _why(text: str) -> str:
    """The line of pip's or a compiler's that says why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error:" in line.lower()]
    fatal = [line for line in errors if "fatal error" in line]
    return (fatal or errors[-1:] or lines[-1:] or ["no reason given"])[0]


def _describe(part: Path) -> str:
    files = sorted(part.iterdir())
    size = sum(file.stat().st_size for file in files) / 2**20
    return f"{part.name}: {size:.1f} MiB, {', '.join(file.name for file in files)}"
