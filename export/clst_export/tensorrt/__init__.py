"""Engines and bundles: built of exported files by the runtime's own builder."""
