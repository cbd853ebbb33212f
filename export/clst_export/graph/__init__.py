"""The float32 ONNX graph: traced, checked, saved."""
