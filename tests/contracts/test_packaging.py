"""What is installed, and that OpenCV is chosen by the user: two wheels and JetPack own the module `cv2`."""

import re
import subprocess
import sys
import zipfile

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
    assert all(word in told for word in ("clst[desktop]", "clst[headless]", "JetPack"))


def test_the_wheel_holds_three_packages_with_their_data_and_nothing_else(tmp_path):
    from hatchling.builders.wheel import WheelBuilder

    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name.split("/")[0] for name in names if ".dist-info" not in name.split("/")[0]} == {
        "clst_train",
        "clst_export",
        "clst_runtime",
    }
    assert "clst_train/recipes/demo.toml" in names
    assert "clst_runtime/classes/lists/road19.json" in names
    assert "clst_runtime/live/web/page/page.html" in names
