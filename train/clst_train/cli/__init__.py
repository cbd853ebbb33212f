"""The commands `clst-train` and `clst-data`: parse, call, print."""
