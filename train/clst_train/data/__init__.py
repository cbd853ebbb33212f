"""Source and target images, augmentation, and drawn scenes."""
