"""Segment one image: model.onnx and street.png become mask.png (class ids) and colours.png."""

import numpy as np
from PIL import Image

import clst

image = np.asarray(Image.open("street.png").convert("RGB"))  # H,W,3 uint8

with clst.load_model("model.onnx") as model:
    mask = model.segment(image).classes  # H,W uint8: a class id for each pixel of the image
    classes = model.manifest.classes

Image.fromarray(mask).save("mask.png")
Image.fromarray(np.array(classes.colours, np.uint8)[mask]).save("colours.png")
for class_id, name in enumerate(classes.names):
    print(f"{name}: {100 * np.mean(mask == class_id):.1f} %")
