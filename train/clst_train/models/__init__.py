"""Networks behind one small interface: features, logits, deployable."""
