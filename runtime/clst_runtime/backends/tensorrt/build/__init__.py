"""From an ONNX file to an engine that is proved on the machine that built it."""
