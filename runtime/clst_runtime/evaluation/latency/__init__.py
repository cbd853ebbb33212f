"""Three kinds of latency, compared between models."""
