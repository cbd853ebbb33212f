"""Whether an exported file predicts what the float32 network predicts."""
