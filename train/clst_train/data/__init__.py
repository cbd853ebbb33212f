"""Source and target images, augmentation. The formats of data sets are in `clst_runtime.data`."""
