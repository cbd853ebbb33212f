"""TensorRT engines: built on the device that runs them, verified there, kept with their manifest beside them."""
