"""How to get what is missing, by platform: the one table of commands."""

from __future__ import annotations

from clst_runtime.system.optional import extra
from clst_runtime.system.platforms import Platform

JETSON_VENV = "python3 -m venv --system-site-packages ~/clst, and install clst there"
"""JetPack's own modules are seen from such an environment only."""

_ANY: dict[str, str] = {
    "python": "install Python 3.10 or newer",
    "opencv": f"pip install {extra('desktop')} (windows) or {extra('headless')} (servers, containers)",
    "ort": f"pip install {extra('ort')}",
    "ort-gpu": f"pip uninstall onnxruntime; pip install {extra('ort-gpu')}",
    "ort-libraries": "pip install 'onnxruntime-gpu[cuda,cudnn]' brings CUDA's and cuDNN's libraries; or install a CUDA "
    "of that version",
    "torch": f"pip install {extra('train')} where you train; a vehicle does not need it",
    "onnx": f"pip install {extra('export')} where you export; a vehicle does not need it",
    "video": f"pip install {extra('video')}; without it recordings are Motion JPEG, larger and not for browsers",
    "plot": f"pip install {extra('plot')}",
    "tensorrt": f"pip install {extra('trt')}",
    "pycuda": f"pip install {extra('trt-cuda-python')} (nothing to compile), or {extra('trt')} (CUDA headers and g++)",
    "cuda": "install NVIDIA's package cuda-toolkit; it is needed to build PyCUDA, not to run ONNX Runtime",
    "driver": "install NVIDIA's driver for this GPU and restart",
    "v4l": "sudo apt-get install v4l-utils",
    "clocks": "sudo cpupower frequency-set -g performance",
    "disk": "free some room, or work in another folder",
    "gstreamer": "a pip wheel of OpenCV has no GStreamer; sudo apt-get install python3-opencv and use "
    "a virtual environment made with --system-site-packages, where gst: sources are wanted",
}
_NO_GPU = "nothing to install: there is no NVIDIA GPU in this machine"
_FOR_GPUS = ("driver", "cuda", "tensorrt", "pycuda", "ort-gpu", "ort-libraries")
_JETSON: dict[str, str] = {
    "ort-libraries": "sudo apt-get install nvidia-jetpack; the onnxruntime-gpu must be one made for this JetPack",
    "opencv": f"sudo apt-get install python3-opencv; {JETSON_VENV}",
    "gstreamer": f"pip uninstall the wheel, sudo apt-get install python3-opencv; {JETSON_VENV}",
    "tensorrt": f"sudo apt-get install nvidia-jetpack (brings TensorRT and its Python module); {JETSON_VENV}",
    "cuda": "sudo apt-get install nvidia-jetpack; export PATH=/usr/local/cuda/bin:$PATH",
    "driver": "flash the board with JetPack: its driver is part of the system",
    "clocks": "sudo nvpmodel -q --verbose lists the modes; sudo nvpmodel -m 0 && sudo jetson_clocks fixes the clocks",
    "pycuda": "sudo apt-get install python3-dev g++; export PATH=/usr/local/cuda/bin:$PATH; "
    "pip install 'pycuda>=2024.1'; or, with nothing to compile, pip install 'cuda-bindings<13'",
}
_BY_PLATFORM: dict[Platform, dict[str, str]] = {
    Platform.X86_CUDA: {
        "driver": "sudo ubuntu-drivers install (Ubuntu) or NVIDIA's installer; then restart",
        "cuda": "sudo apt-get install nvidia-cuda-toolkit, or NVIDIA's cuda-toolkit-12-x to the driver",
        "clocks": "sudo cpupower frequency-set -g performance; sudo nvidia-smi -lgc <MHz> fixes the GPU's clock",
    },
    Platform.X86_CPU: dict.fromkeys(_FOR_GPUS, _NO_GPU),
    Platform.ARM_CPU: dict.fromkeys(_FOR_GPUS, _NO_GPU),
    Platform.JETPACK_5: {
        **_JETSON,
        "tensorrt": f"JetPack 5 has TensorRT 8, too old; flash JetPack 6, or run the ONNX file with {extra('ort')}",
    },
    Platform.JETPACK_6: {
        **_JETSON,
        "ort": f"pip install {extra('ort')} 'numpy<2'",
        "ort-gpu": "the onnxruntime-gpu wheel of NVIDIA's Jetson AI Lab for JetPack 6 and CUDA 12.6, with 'numpy<2'; "
        "the common one has no CUDA on this board",
    },
    Platform.JETPACK_7: {
        **_JETSON,
        "pycuda": _JETSON["pycuda"]
        .replace("2024.1", "2025.1.2")
        .replace("'cuda-bindings<13'", "cuda-bindings"),  # the first that CUDA 13 can build
        "ort-gpu": "pip install onnxruntime-gpu where there is a wheel for ARM64 and CUDA 13, else the one of NVIDIA's "
        "Jetson AI Lab for JetPack 7",
    },
    Platform.DRIVE: {
        "tensorrt": "DRIVE OS brings its own TensorRT; it must be 10.3 or newer, with its Python module",
        "driver": "DRIVE OS brings the driver",
        "cuda": "DRIVE OS brings CUDA",
    },
}


def hint(need: str, platform: Platform) -> str:
    """The command for `need` on `platform`."""
    return _BY_PLATFORM.get(platform, {}).get(need, _ANY[need])
