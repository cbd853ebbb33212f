"""Run an exported file with ONNX Runtime and OpenCV alone: everything that is needed stands in the file's manifest."""

import json

import cv2
import onnxruntime

session = onnxruntime.InferenceSession("model.onnx", providers=["CPUExecutionProvider"])
manifest = json.loads(session.get_modelmeta().custom_metadata_map["clst_manifest"])
height, width = manifest["input_hw"]

image = cv2.imread("street.png")  # H,W,3 uint8, BGR
rows, columns = image.shape[:2]
shown_height, shown_width = height, width  # fit "stretch": the image fills the input
if manifest.get("fit") == "letterbox":  # the shape stays; the longer edge fills the input, the other one is rounded
    if height * columns <= width * rows:
        shown_width = max(1, (2 * columns * height + rows) // (2 * rows))
    else:
        shown_height = max(1, (2 * rows * width + columns) // (2 * columns))
top, left = (height - shown_height) // 2, (width - shown_width) // 2
bottom, right = height - shown_height - top, width - shown_width - left

small = cv2.resize(image, (shown_width, shown_height), interpolation=cv2.INTER_LINEAR)
padded = cv2.copyMakeBorder(small, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(104, 116, 124))
frame = cv2.cvtColor(padded, cv2.COLOR_BGR2RGB)[None]  # 1,height,width,3 uint8, RGB: normalisation is in the graph

classes = session.run(["classes"], {"frame": frame})[0][0]  # height,width uint8
shown = classes[top : top + shown_height, left : left + shown_width]
mask = cv2.resize(shown, (columns, rows), interpolation=cv2.INTER_NEAREST_EXACT)
cv2.imwrite("mask.png", mask)
