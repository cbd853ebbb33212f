"""Weights that others trained: read from files, fitted by names, or brought by packages."""
