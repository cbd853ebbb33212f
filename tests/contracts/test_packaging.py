"""What is installed, and that OpenCV is chosen by the user: two wheels and JetPack own the module `cv2`."""

import re
import shutil
import subprocess
import sys
import zipfile

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from tests import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def brought_by(requirements):
    """Names of the distributions that a list of requirements brings, `clst[…]` resolved."""
    names = set()
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower()
        if name == "clst":
            for extra in re.search(r"\[(.*)\]", requirement)[1].split(","):
                names |= brought_by(PROJECT["optional-dependencies"][extra])
        else:
            names.add(name)
    return names


def test_the_base_brings_no_opencv_no_torch_and_no_onnx():
    assert brought_by(PROJECT["dependencies"]) == {"click", "numpy", "pillow"}


def test_opencv_comes_by_exactly_two_extras_and_never_twice():
    opencv = {
        extra: {name for name in brought_by(requirements) if name.startswith("opencv")}
        for extra, requirements in PROJECT["optional-dependencies"].items()
    }
    assert {extra for extra, names in opencv.items() if names} == {"desktop", "headless"}
    assert opencv["desktop"] == {"opencv-python"}
    assert opencv["headless"] == {"opencv-python-headless"}


def test_the_two_onnx_runtimes_never_come_together():
    for requirements in PROJECT["optional-dependencies"].values():
        assert len(brought_by(requirements) & {"onnxruntime", "onnxruntime-gpu"}) <= 1


def test_a_cv2_that_no_wheel_brought_is_taken(tmp_path):
    """As on a Jetson: a module without a distribution, in front on the path."""
    (tmp_path / "cv2.py").write_text("__version__ = '4.8.0-jetpack'\n")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from clst_runtime.system.optional import require; print(require('cv2').__version__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "4.8.0-jetpack"


def test_without_cv2_the_error_names_the_three_ways():
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from clst_runtime.system.optional import require\n"
        "try: require('cv2')\nexcept Exception as error: print(error.exit_code, error.message)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.startswith("5 ")
    assert all(word in told for word in (".[desktop]", ".[headless]", "JetPack"))


def built(source, out):
    """Names of the files in the wheel of `source`, and the commit that it carries."""
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(source)).build(directory=str(out), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist(), archive.read("clst_runtime/system/commit.txt").decode().strip()


def test_the_wheel_holds_four_packages_with_their_data_and_nothing_else(tmp_path):
    names, _commit = built(ROOT, tmp_path)
    packages = {"clst", "clst_train", "clst_export", "clst_runtime"}
    assert {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]} == packages
    assert packages == {name.removesuffix("/py.typed") for name in names if name.endswith("/py.typed")}
    assert "clst_train/recipes/demo.toml" in names
    assert "clst_runtime/classes/lists/road19.json" in names
    assert "clst_runtime/live/web/page/page.html" in names


def git(folder, *arguments):
    call = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@example.org", *arguments]
    return subprocess.run(call, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def source(tmp_path):
    """What a wheel is built from, in no git clone."""
    source = tmp_path / "source"
    for folder in ("runtime", "train", "export"):
        shutil.copytree(ROOT / folder, source / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE", ".gitignore"):
        shutil.copy(ROOT / file, source)
    return source


@pytest.fixture
def clone(source):
    git(source, "init", "-q")
    git(source, "add", ".")
    git(source, "commit", "-qm", "one")
    return source


def test_a_wheel_carries_its_commit_and_a_dirty_clone_says_so_in_one_line(clone, tmp_path, capsys):
    head = git(clone, "rev-parse", "--short=12", "HEAD")
    (clone / "notes.txt").write_text("not in the wheel\n")
    assert built(clone, tmp_path)[1] == head
    capsys.readouterr()
    (clone / "runtime/clst_runtime/new.py").write_text("")
    assert built(clone, tmp_path)[1] == f"{head}-dirty"
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"commit {head}-dirty: files differ from that commit")


def test_a_shallow_clone_has_its_commit_too(clone, tmp_path):
    git(clone, "commit", "-qm", "two", "--allow-empty")
    git(tmp_path, "clone", "-q", "--depth", "1", f"file://{clone}", "shallow")
    assert git(tmp_path / "shallow", "rev-list", "--count", "HEAD") == "1"
    assert built(tmp_path / "shallow", tmp_path)[1] == git(clone, "rev-parse", "--short=12", "HEAD")


def test_without_a_clone_the_wheel_is_built_and_one_line_says_that_the_commit_is_unknown(source, tmp_path, capsys):
    git(tmp_path, "init", "-q")  # another project's, around it
    git(tmp_path, "commit", "-qm", "not ours", "--allow-empty")
    assert built(source, tmp_path)[1] == "unknown"
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "commit unknown: this folder is no git clone, or git is not installed"


def test_an_installed_wheel_tells_the_commit_that_it_carries(tmp_path, monkeypatch):
    from clst_runtime.system import commit

    monkeypatch.setattr(commit, "FILE", tmp_path / "commit.txt")
    commit.FILE.write_text("0123456789ab-dirty\n")
    assert commit.commit() == "0123456789ab-dirty"


def test_no_text_names_an_index_that_has_no_clst():
    """`pip install clst` would ask an index for a name that is not ours there."""
    call = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.py", "*.md", "*.txt", "*.toml", "*ile*"]
    for file in subprocess.run(call, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        if file != "tests/contracts/test_packaging.py":
            text = (ROOT / file).read_text()
            assert re.search(r"pip install [^\n`]*(?<![\w/.-])clst(?![\w.-])", text) is None, file


def test_an_install_hint_is_of_the_clone_or_of_the_wheel(monkeypatch, tmp_path):
    from clst_runtime.system import optional

    assert optional.extra("ort") == "-e '.[ort]'"
    monkeypatch.setattr(optional, "__file__", str(tmp_path / "site-packages/clst_runtime/system/optional.py"))
    assert optional.extra("ort") == f"'clst-{PROJECT['version']}-py3-none-any.whl[ort]'"
    monkeypatch.setattr(optional, "package_version", lambda name: None)
    assert optional.extra("ort") == "'clst-VERSION-py3-none-any.whl[ort]'"
