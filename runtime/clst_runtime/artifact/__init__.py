"""What a model file promises: its manifest, and where it is written."""
