"""Train, adapt and export a network of your own: the module `small_unet`, which lies beside this file."""

import clst

run = clst.train(
    network="small_unet:SmallUNet?width=24",
    source="old_camera",
    target="new_camera.mp4",
    out="runs/own",
    settings={"adaptation.iterations": 2000},
)
exported = clst.export(run.adapted, "own.onnx", precision="fp16", frames="new_camera.mp4")
print(f"{exported.manifest.network}: {100 * exported.comparison.agreement:.2f} % of the pixels equal PyTorch's")
