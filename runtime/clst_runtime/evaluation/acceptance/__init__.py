"""The acceptance of a model on the device that will run it."""
