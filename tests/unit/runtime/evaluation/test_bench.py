"""Models side by side: turns, ratios, budgets, the tie to the export, and the command."""

import dataclasses
import json
import time

import numpy as np
import pytest
from click.testing import CliRunner

from clst_runtime.backends import open_model
from clst_runtime.backends.base import Prediction
from clst_runtime.cli.bench import main
from clst_runtime.errors import ConfigError, DataError, ModelFileError
from clst_runtime.evaluation.export_digest import (
    ExportDigest,
    compare_with_digest,
    known_frames,
    stored_digest,
    take_digest,
)
from clst_runtime.evaluation.latency.comparison import (
    Budgets,
    Candidate,
    Level,
    Score,
    check_sizes,
    frames_to_measure,
    ratios_to_first,
)
from clst_runtime.evaluation.latency.engine_only import engine_step
from clst_runtime.evaluation.latency.host_to_host import Effort, measure_rounds, measure_side_by_side
from clst_runtime.evaluation.latency.plot import plot_scores, short_names
from clst_runtime.evaluation.latency.report import level_table, scores_json, warnings
from clst_runtime.imaging.geometry import Fit
from clst_runtime.imaging.image_files import read_image
from tests.conftest import SIZE_HW, rgb_manifest, write_labelled, write_rgb_model
from tests.support.shell import shell

QUICK = Effort(runs=5, seconds=30.0, warm_up_runs=2, warm_up_ms=0.0)


class FakeBackend:
    """Says 0 everywhere; a run takes what it is told."""

    description = "a fake"

    def __init__(self, *, milliseconds=0.0, size_hw=SIZE_HW, parity=None, said=0):
        self.manifest = rgb_manifest(input_hw=size_hw, parity=parity or {})
        self.seconds, self.said, self.calls = milliseconds / 1000, said, 0

    def predict(self, frame):
        self.calls += 1
        time.sleep(self.seconds)
        return Prediction(classes=np.full(self.manifest.input_hw, self.said, np.uint8))


def frames(count=3):
    return list(np.random.default_rng(0).integers(0, 256, (count, *SIZE_HW, 3), dtype=np.uint8))


def test_turns_change_who_begins_and_have_one_uncounted_run_each():
    order = []

    def step(name):
        return lambda frame: order.append(name) or len(order)

    samples, warm = measure_rounds(
        [step("a"), step("b")], frames(), dataclasses.replace(QUICK, runs=40, warm_up_runs=2)
    )
    assert warm == 2
    assert [len(own) for own in samples] == [40, 40]
    assert order[:4] == ["a", "a", "b", "b"]  # the warm-up
    turns = "".join(order[4:])  # rounds of 16, 16 and 8 runs, each turn one longer
    assert turns == "a" * 17 + "b" * 17 + "b" * 17 + "a" * 17 + "a" * 9 + "b" * 9


def test_samples_are_those_of_each_model():
    slow, fast = FakeBackend(milliseconds=30), FakeBackend(milliseconds=1)
    results = measure_side_by_side([slow, fast], frames(), QUICK)
    assert [len(result.samples_ns) for result in results] == [5, 5]
    assert results[0].summary_ms()["median"] > 29.9
    assert 0.9 < results[1].summary_ms()["median"] < 29.9
    assert slow.calls == fast.calls == 3 + 2 + 1 + 5  # hashes, warm-up, uncounted, counted


def test_the_time_limit_ends_after_whole_rounds_and_one_is_always_measured():
    samples, _ = measure_rounds(
        [lambda _: 1, lambda _: 2], frames(), dataclasses.replace(QUICK, runs=10_000, seconds=1e-9)
    )
    assert [len(own) for own in samples] == [16, 16]
    assert set(samples[1]) == {2}


def test_no_frames_is_an_error():
    with pytest.raises(DataError, match="no frames"):
        measure_side_by_side([FakeBackend()], [], QUICK)


def test_equal_class_maps_have_equal_hashes():
    first, second, other = (
        measure_side_by_side([FakeBackend(said=said)], frames(), QUICK)[0].output_sha256 for said in (0, 0, 1)
    )
    assert first == second != other


def score(name, *samples_ms, level=Level.HOST_TO_HOST):
    samples = tuple(round(value * 1e6) for value in samples_ms)
    candidate = Candidate.parse(name)
    return Score(candidate=candidate, backend="b", input_hw=SIZE_HW, level=level, samples_ns=samples)


def test_ratios_are_of_medians_and_missing_where_one_is():
    assert ratios_to_first([score("a", 1, 2, 9), score("b", 3, 3, 3), score("c")]) == [1.0, 1.5, None]
    assert ratios_to_first([score("a"), score("b", 1)]) == [None, None]
    assert ratios_to_first([]) == []


@pytest.mark.parametrize(
    ("budgets", "words"),
    [
        (Budgets(), []),
        (Budgets(max_p99_ms=4.0, max_median_ms=3.0, max_ratio=1.5), []),
        (Budgets(max_p99_ms=2.9), ["b: p99 is 3.00 ms, 2.90 ms allowed"]),
        (Budgets(max_median_ms=1.9), ["a: median is 2.00 ms", "b: median is 3.00 ms"]),
        (Budgets(max_ratio=1.49), ["b: takes 1.500 times as long as a, 1.490 allowed"]),
    ],
)
def test_budgets(budgets, words):
    told = budgets.failures([score("a", 2, 2, 2), score("b", 3, 3, 3)])
    assert len(told) == len(words)
    assert all(word in line for word, line in zip(words, told, strict=True))


def test_a_budget_does_not_hold_where_nothing_was_measured():
    assert len(Budgets(max_p99_ms=1.0).failures([score("a")])) == 1


def test_a_backend_stands_behind_the_last_at_unless_a_file_is_called_so(tmp_path):
    assert Candidate.parse("x/m.onnx@ort-cuda").backend == "ort-cuda"
    assert Candidate.parse("m.onnx").backend == "auto"
    odd = write_rgb_model(tmp_path / "m@cpu")
    assert Candidate.parse(str(odd)).path == odd
    with pytest.raises(ConfigError, match="only TensorRT computes an engine"):
        Candidate.parse("m.engine@ort-cuda")


def test_models_of_other_fits_are_refused():
    boxed = FakeBackend()
    boxed.manifest = rgb_manifest(fit=Fit.LETTERBOX)
    candidates = [Candidate.parse("a.onnx"), Candidate.parse("b.onnx")]
    with pytest.raises(ModelFileError, match=r"b\.onnx: fit letterbox, the first model's is stretch"):
        check_sizes(candidates, [FakeBackend(), boxed])
    assert check_sizes(candidates, [boxed, boxed]) == SIZE_HW


def test_frames_to_measure_are_what_the_model_would_see(tmp_path):
    """8×8 in 8×16: columns 4–11, grey beside them."""
    write_labelled(tmp_path, size_hw=(8, 8))
    for frame in frames_to_measure(str(tmp_path / "images/val"), SIZE_HW, Fit.LETTERBOX):
        assert (frame[:, [3, 12]] == (124, 116, 104)).all()
        assert (frame[:, 4:8] == (200, 0, 0)).all()
    assert (frames_to_measure(str(tmp_path / "images/val"), SIZE_HW)[0][:, 0] == (200, 0, 0)).all()


def test_other_sizes_are_refused():
    with pytest.raises(ModelFileError, match=r"b\.onnx: input \(4, 4\), the first model's is \(8, 16\)"):
        check_sizes(
            [Candidate.parse("a.onnx"), Candidate.parse("b.onnx")], [FakeBackend(), FakeBackend(size_hw=(4, 4))]
        )


def test_tables_of_two_kinds_are_two_and_a_missing_measurement_is_a_dash():
    table = level_table([score("a", 2, 2), score("b", level=Level.HOST_TO_HOST)])
    assert table.startswith("host-to-host, ms")
    assert table.splitlines()[4].split()[:3] == ["b", "0", "–"]
    both = scores_json([score("a", 2, 2), score("a", 1, 1, level=Level.ENGINE_ONLY)], samples=True)
    assert len(both) == 1
    assert both[0]["samples_ns"] == [2_000_000, 2_000_000]
    assert both[0]["engine_only_samples_ns"] == [1_000_000, 1_000_000]
    assert "samples_ns" not in scores_json([score("a", 2)], samples=False)[0]


def test_the_coefficient_of_variation_warns_above_two_and_a_half_per_cent():
    steady = score("a", 97.6, 102.4)  # spread 2.4 of 100
    unsteady = score("b", 97.4, 102.6)
    assert warnings([steady, unsteady], ["hot"]) == [
        "b: host-to-host is unsteady, coefficient of variation 2.6 %",
        "hot",
    ]


def test_the_session_alone_takes_less_than_the_whole_and_an_unknown_backend_says_so(rgb_model):
    with open_model(rgb_model) as backend:
        step = engine_step(backend)
        assert not isinstance(step, str)
        nanoseconds = step(frames()[0])
        assert 0 < nanoseconds < 1e9
        effort = Effort(runs=200, seconds=9, warm_up_runs=20)
        whole = measure_side_by_side([backend], frames(), effort)[0].summary_ms()["median"]
        alone = sorted(step(frames()[0]) for _ in range(200))[100] / 1e6
        assert alone < whole
    assert "not measured: a fake" in engine_step(FakeBackend())


class GpuClock(FakeBackend):
    """A backend as TensorRT's, with and without events."""

    def __init__(self, times):
        super().__init__()
        self.times = times

    def device_times_ms(self):
        return self.times


def test_the_gpus_own_clock_counts_the_computation_alone():
    step = engine_step(GpuClock({"copy_in": 5.0, "compute": 1.25, "copy_out": 5.0}))
    assert step(frames()[0]) == 1_250_000
    assert "without the GPU's clock" in engine_step(GpuClock({}))


def test_a_fingerprint_ties_a_model_to_its_export():
    images = frames(20)
    stored = take_digest(FakeBackend(), images)
    assert len(stored.frames_sha256) == 16
    assert stored.class_pixels[0] == (128, 0, 0)
    again = ExportDigest.from_json(json.loads(json.dumps(stored.to_json())), where="m")
    assert again == stored
    found = known_frames(reversed(images), stored.frames_sha256)
    tie = compare_with_digest(FakeBackend(), stored, found)
    assert tie.is_equal
    assert (tie.of, tie.found, tie.equal) == (16, 16, 16)


def test_another_class_map_is_found_with_the_pixels_that_must_differ():
    stored = take_digest(FakeBackend(), frames(2))
    tie = compare_with_digest(FakeBackend(said=2), stored, known_frames(frames(2), stored.frames_sha256))
    assert (tie.found, tie.equal, tie.differing_share) == (2, 0, 1.0)
    assert not tie.is_equal
    assert "other classes than at export on 2 of 2 of the export's 2 frames" in tie.text


def test_other_frames_do_not_tie_and_part_of_them_is_told():
    stored = take_digest(FakeBackend(), frames(2))
    other = [frame ^ 255 for frame in frames(2)]
    tie = compare_with_digest(FakeBackend(), stored, known_frames(other, stored.frames_sha256))
    assert tie.text == "not tied to the parity run: other frames than those of the export"
    tie = compare_with_digest(FakeBackend(), stored, known_frames(frames(1), stored.frames_sha256))
    assert not tie.is_equal
    assert tie.text == "the same classes as at export on 1 of the export's 2 frames"


@pytest.mark.parametrize("damaged", [{}, {"frames_sha256": 3}, {"frames_sha256": ["a"], "classes_sha256": []}])
def test_a_damaged_fingerprint_is_an_error_of_the_file(damaged):
    full = {"frames_sha256": [], "classes_sha256": [], "class_pixels": [], "computed_by": "x"} | damaged
    manifest = rgb_manifest(parity={"fingerprint": full if damaged else {}})
    with pytest.raises(ModelFileError, match="export the model again"):
        stored_digest(manifest, where="m.onnx")
    assert stored_digest(rgb_manifest(), where="m.onnx") is None


def tied_model(path, images, *, swapped=False):
    """An exported model whose manifest tells what the unswapped one says to the images."""
    with open_model(write_rgb_model(path)) as backend:
        stored = take_digest(backend, images)
    parity = {"fingerprint": stored.to_json(), "frames": len(images)}
    return write_rgb_model(path, manifest=rgb_manifest(parity=parity).to_json(), swapped=swapped)


def test_the_command_compares_ties_plots_and_writes_every_sample(tmp_path):
    data = write_labelled(tmp_path / "data")
    images = [read_image(path) for path in sorted((data / "images/val").iterdir())]
    good = tied_model(tmp_path / "good.onnx", images)
    other = tied_model(tmp_path / "other.onnx", images, swapped=True)
    out, plot = tmp_path / "o.json", tmp_path / "p.png"
    arguments = ["--data", data / "images", "--runs", "20", "--warm-up", "1", "--out", out, "--plot", plot]
    done = shell("clst-bench", good, f"{other}@ort-cpu", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("runs") == 2
    assert done.stdout.index("host-to-host, ms") < done.stdout.index("engine-only, ms")
    results = json.loads(out.read_text())
    first, second = results["results"]
    assert first["parity"]["tied"]
    assert (second["parity"]["equal"], second["parity"]["differing_share_at_least"]) == (
        0,
        0.0,
    )  # red and blue change places
    assert len(first["samples_ns"]) == len(first["engine_only_samples_ns"]) == 20
    assert second["ratio_to_first"] > 0
    assert {"before", "after", "doubts", "machine"} <= set(results)
    assert read_image(plot).shape[1] > 500


def test_what_the_model_said_is_not_tied_without_pictures(rgb_model):
    done = shell("clst-bench", rgb_model, "--runs", "2", "--warm-up", "0", "--no-engine", "--json")
    result = json.loads(done.stdout)["results"][0]
    assert result["parity"]["told"].startswith("not tied")
    assert "engine_only_ms" not in result


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["{m}", "{small}"], 4, "compare equal sizes"),
        (["{m}@gpu"], 3, "backend 'gpu'"),
        (["{m}", "--max-ratio", "1"], 2, "at least two"),
        (["{m}", "{m}"], 2, "named twice"),
        (["{m}", "--live", "{data}", "--runs", "3"], 2, "--runs has no part in it"),
        (["{m}", "--plot", "p.xyz"], 2, "ends in .png"),
        (["{m}", "--live", "{none}"], 3, "no such folder"),
        (["{m}", "--runs", "3", "--max-median-ms", "0"], 6, "median is"),
        (["{m}", "{swapped}", "--runs", "3", "--no-engine", "--max-ratio", "0.0001"], 6, "times as long"),
        (["{none}"], 4, "no such model"),
        ([], 2, "Missing argument"),
    ],
)
def test_refusals_and_budgets_have_their_exit_codes(tmp_path, rgb_model, arguments, code, words):
    small = write_rgb_model(tmp_path / "small.onnx")
    from onnx import load, save

    graph = load(str(small))
    for value in (*graph.graph.input, *graph.graph.output):
        value.type.tensor_type.shape.dim[1].dim_value = 4
    graph.metadata_props[0].value = rgb_manifest(input_hw=(4, SIZE_HW[1])).to_json()
    save(graph, str(small))
    names = {"m": rgb_model, "small": small, "none": tmp_path / "none", "data": write_labelled(tmp_path / "d")}
    names["swapped"] = write_rgb_model(tmp_path / "swapped.onnx", swapped=True)
    done = CliRunner().invoke(main, [argument.format(**names) for argument in arguments])
    assert done.exit_code == code, done.output
    assert words in done.output


def test_a_plot_of_few_samples_and_of_one_kind(tmp_path):
    plot_scores([score("a", 1), score("b", 1, 2, 50), score("c")], tmp_path / "p.png")
    assert read_image(tmp_path / "p.png").ndim == 3
    assert short_names(["x/a.onnx", "y/b.onnx@cuda"]) == ["a.onnx", "b.onnx@cuda"]
    assert short_names(["x/a.onnx", "y/a.onnx"]) == ["x/a.onnx", "y/a.onnx"]
