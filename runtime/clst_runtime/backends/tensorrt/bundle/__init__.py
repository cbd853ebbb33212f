"""Bundles: the folder that is copied to a device, and the proof of its engines there."""
