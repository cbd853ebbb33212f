"""Labelled data sets and other images that a command is given."""
