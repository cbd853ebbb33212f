"""The temporal ensemble: what the network has said of each target image, over time."""
