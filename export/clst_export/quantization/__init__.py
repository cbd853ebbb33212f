"""FP16 and INT8 written into the graph: measured ranges, explicit Q/DQ, and which layers stay as they are."""
