"""Public API of CLST: load a model and segment images; train and adapt; export.

    with clst.load_model("front.onnx") as model:
        classes = model.segment(image).classes        # H,W uint8

Importing it imports neither PyTorch nor ONNX nor OpenCV; each enters when it is needed. Everything that is not in
`__all__` may change between versions.
"""

from importlib.metadata import PackageNotFoundError, version

from clst import errors
from clst.model import Model, Segmentation, load_model
from clst.workflow import Exported, export, train

try:
    __version__ = version("clst")
except PackageNotFoundError:  # a clone that is not installed
    __version__ = "0+unknown"

__all__ = ["Exported", "Model", "Segmentation", "__version__", "errors", "export", "load_model", "train"]
