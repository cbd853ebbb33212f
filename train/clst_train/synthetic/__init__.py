"""Synthetic road scenes with exact labels, seen by two cameras."""
