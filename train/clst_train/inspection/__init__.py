"""Looking at a run: what self-training does, features, images before and after; and which frames to label."""
