"""Training on the labelled old camera and CLST adaptation to the unlabelled new one."""
