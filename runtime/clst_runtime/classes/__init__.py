"""Class lists and label mappings: what a pixel's number means."""
