"""Public API of CLST: load a model and segment images; train and adapt; export.

    with clst.load_model("front.onnx") as model:
        classes = model.segment(image).classes        # H,W uint8

Importing it imports neither PyTorch nor ONNX nor OpenCV; each enters when it is needed. Everything that is not in
`__all__` may change between versions.
"""

from clst import errors
from clst.model import Model, Segmentation, load_model
from clst.workflow import Exported, export, train
from clst_runtime.system.machine import package_version

__version__ = package_version("clst") or "0+unknown"  # a clone that is not installed

__all__ = ["Exported", "Model", "Segmentation", "__version__", "errors", "export", "load_model", "train"]
