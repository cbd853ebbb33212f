"""Where models are computed, one module per engine."""
