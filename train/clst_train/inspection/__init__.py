"""Looking at a run: what self-training does, how classes lie in the feature space, images before and after."""
