"""Whether the camera is still the one that the model was made for, and what to learn from when it is not."""
