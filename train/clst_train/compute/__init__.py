"""Cores, GPUs, processes and memory: how training is computed, never what."""
