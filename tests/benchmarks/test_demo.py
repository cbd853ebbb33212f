from benchmarks.adaptation.demo import scores


def test_the_four_results_of_the_demo_are_kept_under_the_names_of_the_camera_changes():
    def result(miou):
        return {"frames": 2, "miou": miou, "iou": {"road": 2 * miou, "sky": None}}

    names = ("source_only", "batchnorm_statistics", "reference", "candidate")
    values = {name: result(miou) for name, miou in zip(names, (0.125, 0.25, 0.375, 0.5), strict=True)}
    kept = scores({**values, "agreement": 0.999, "machine": {}})
    assert kept["miou"] == {"source": 12.5, "batchnorm": 25.0, "clst": 37.5, "exported": 50.0}
    assert kept["iou"]["exported"] == {"road": 1.0, "sky": None}
    assert kept["agreement"] == 0.999
