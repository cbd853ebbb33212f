"""The temporal ensemble: averaged predictions of each target image."""
