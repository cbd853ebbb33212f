"""From checkpoint to verified model files."""
