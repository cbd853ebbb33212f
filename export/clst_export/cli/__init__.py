"""The commands `clst-export` and `clst-demo`: parse, call, print."""
