"""Live segmentation on the vehicle: numpy in, numpy out. Imports neither torch nor onnx."""
