"""What TensorRT for RTX has of its own: its libraries, targets and kernels."""
