#!/bin/sh
# Build an engine of model.onnx with NVIDIA's trtexec (TensorRT 10.3 or newer), then time it and run it on one frame.
# Precision is in the graph, so no --fp16 or --int8. frame.bin holds the bytes of one RGB frame: 1,H,W,3 uint8.
# The engine has no manifest: clst-run takes engines of `clst-export --trt` or a bundle.
set -eu
trtexec --onnx=model.onnx --saveEngine=model.engine --stronglyTyped --skipInference
trtexec --loadEngine=model.engine --useCudaGraph --loadInputs=frame:frame.bin --exportOutput=classes.json
