"""Segment a camera or a video with OpenCV: python 02_camera_loop.py [VIDEO]

A loop for a first look. `clst-run` also drops stale frames, opens a lost camera again and reports latency.
"""

import sys

import cv2

import clst

camera = cv2.VideoCapture(sys.argv[1] if len(sys.argv) > 1 else 0)
with clst.load_model("model.onnx") as model:
    while True:
        found, frame = camera.read()  # H,W,3 uint8, BGR
        if not found:
            break
        mask = model.segment(frame, color="bgr").classes  # H,W uint8
        print(f"{model.manifest.classes.names[0]}: {100 * (mask == 0).mean():.1f} % of the frame")
