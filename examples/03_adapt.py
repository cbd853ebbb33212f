"""Adapt to a new camera: labelled images of the old one, unlabelled images or a video of the new one, then export."""

import clst

run = clst.train(
    source="old_camera",
    target="new_camera.mp4",
    out="runs/front",
    settings={"adaptation.iterations": 2000, "run.seed": 1},
)
exported = clst.export(run.adapted, "front.onnx", frames="new_camera.mp4")
print(f"{exported.path}: {100 * exported.comparison.agreement:.2f} % of the pixels equal PyTorch's")
