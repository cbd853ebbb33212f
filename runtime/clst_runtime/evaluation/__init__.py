"""How good a model is: IoU, parity, latency, acceptance on a device."""
