"""`clst-run` with several cameras: names, refusals, and the outputs of each."""

import json

import numpy as np
import pytest
from PIL import Image

from clst_runtime.cli.cameras import cameras_of
from clst_runtime.cli.run import main as clst_run
from clst_runtime.imaging.image_files import write_png
from clst_runtime.live.sinks.video_files import video_suffix
from tests.support.command_line import call
from tests.support.videos import frames_of

NOTHING = {"out": None, "streams": (), "ros2": None, "mcap": None, "collect": None, "ignore_masks": ()}
RED, BLUE = (255, 0, 0), (0, 0, 255)


def images(folder, colours, size_hw):
    for index, colour in enumerate(colours):
        write_png(folder / f"{index}.png", np.broadcast_to(np.uint8(colour), (*size_hw, 3)).copy())
    return folder


@pytest.fixture
def places(tmp_path):
    """Two images of a camera of 30x40 that are red, three of one of 24x16 that are blue."""
    front, rear = tmp_path / "in" / "front", tmp_path / "in" / "rear"
    front.mkdir(parents=True)
    rear.mkdir()
    return images(front, [RED] * 2, (30, 40)), images(rear, [BLUE] * 3, (24, 16))


def two(places, *more):
    front, rear = places
    return ("--source", f"front={front}", "--source", f"rear={rear}", *more)


def errors(done):
    return [line for line in done.stderr.splitlines() if line.lower().startswith("error:")]


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (["front=camera:0", "front=camera:1"], "two cameras are named 'front': camera:0 and camera:1; give each a"),
        (["camera:0", "rear=camera:1"], "--source camera:0: of several cameras each needs a name, as --source front=c"),
        (["front=camera:0", "rtsp://me:secret1@10.0.0.7/live?a=b"], "--source rtsp://…@10.0.0.7/live"),
        (["Front=camera:0"], "'Front' is no name of a camera; give small letters, digits and _, a letter first"),
        (["=camera:0"], "'' is no name of a camera"),
        (["masks=camera:0"], "'masks' names a folder of results"),
        (["front=camera:0", "rear=0"], "front and rear are both 0; a source can be given once"),
        (["front=camera:0", "rear=/dev/video0?fps=30"], "front and rear are both /dev/video0"),
        (["front=csi:1", "rear=csi:1?fps=30"], "front and rear are both csi:1"),
        (["front=raw:8x8", "rear=raw:16x8"], "front and rear are both raw:16x8"),
        (["front={folder}", "rear={folder}/../{folder.name}"], "; a source can be given once"),
        (["front=camera:0", "rear={folder}"], "front is a camera and rear is read from files; give one kind"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_are_refused_in_one_line(tmp_path, sources, words):
    given = [part for source in sources for part in ("--source", source.format(folder=tmp_path))]
    done = call(clst_run, tmp_path / "none.onnx", *given)
    assert done.exit_code == 2
    (line,) = errors(done)
    assert words in line
    assert "secret1" not in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--stream", "masks:unix:/run/a.sock"], "--stream masks:unix:/run/a.sock: with several cameras say"),
        (["--stream", "masks:-"], "--stream masks:-: with several cameras"),
        (["--stream", "overlay:tcp:127.0.0.1:5555"], "give a socket, as overlay:unix:/run/{camera}.sock"),
        (["--mcap", "masks.mcap"], "--mcap masks.mcap: with several cameras"),
        (["--collect", "new.mcap"], "--collect new.mcap: with several cameras"),
        (["--ros2", "/clst"], "--ros2 /clst: with several cameras"),
        (["--out", "a", "--collect", "a"], "--collect and --out each need a folder of their own"),
    ],
)  # fmt: skip
def test_an_output_that_cameras_cannot_share_is_refused(rgb_model, places, arguments, words):
    done = call(clst_run, rgb_model, *two(places), *arguments)
    assert (done.exit_code, len(errors(done))) == (2, 1)
    assert words in errors(done)[0]


def test_a_place_for_a_name_needs_a_name(rgb_model, places):
    done = call(clst_run, rgb_model, "--source", places[0], "--mcap", "{camera}.mcap")
    assert done.exit_code == 2
    assert "--mcap {camera}.mcap: {camera} is a camera's name; give one, as --source front=…" in done.stderr


@pytest.mark.parametrize(
    "source",
    ["camera:0", "0", "/dev/video3?size=8x8", "rtsp://10.0.0.7/live?channel=1", "gst:videotestsrc pattern=1 ! appsink",
     "drive.mcap?topic=/front&rate=1", "raw:16x8?layout=nv12", "ros2:/image", "a/b=c.mp4",
     f"gst:{'queue! ' * 60}appsink"],
)  # fmt: skip
def test_a_source_without_a_name_is_taken_as_it_is(source):
    (order,) = cameras_of([source], NOTHING)
    assert (order.name, order.source) == ("", source)
    assert order.options is NOTHING
    (named,) = cameras_of([f"front_2={source}"], NOTHING)
    assert (named.name, named.source) == ("front_2", source)


def test_a_file_whose_name_looks_like_a_named_source_is_that_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "front=a").mkdir()
    (order,) = cameras_of(["front=a"], NOTHING)
    assert (order.name, order.source) == ("", "front=a")
    (tmp_path / "front=a" / "drive.mcap").touch()
    (recording,) = cameras_of(["front=a/drive.mcap?topic=/front"], NOTHING)
    assert (recording.name, recording.source) == ("", "front=a/drive.mcap?topic=/front")


def test_outputs_of_each_camera_are_those_of_one_and_the_report_covers_both(rgb_model, places, tmp_path):
    out = tmp_path / "driven"
    done = call(clst_run, rgb_model, *two(places), "--out", out, "--masks", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told == json.loads((out / "statistics.json").read_text())
    assert {name: each["frames"] for name, each in told["cameras"].items()} == {"front": 2, "rear": 3}
    assert told["cameras"]["rear"]["source"] == str(places[1])
    for name, count, (rows, columns), class_id in (("front", 2, (30, 40), 0), ("rear", 3, (24, 16), 2)):
        folder = out / name
        assert sorted(path.name for path in folder.iterdir()) == [
            "frames.jsonl", "legend.png", "masks", f"overlay{video_suffix()}", "statistics.json"]  # fmt: skip
        own = json.loads((folder / "statistics.json").read_text())
        assert (own["frames"], own["model"], own["backend"]) == (count, str(rgb_model), told["backend"])
        assert own["end"] == "the source has ended"
        masks = sorted((folder / "masks").iterdir())
        assert [path.name for path in masks] == [f"{index}.png" for index in range(count)]
        mask = np.asarray(Image.open(masks[0]))
        assert mask.shape == (rows, columns)
        assert np.unique(mask).tolist() == [class_id]
        assert [frame.shape[:2] for frame in frames_of(folder / f"overlay{video_suffix()}")] == [
            (rows, columns)
        ] * count
        assert len((folder / "frames.jsonl").read_text().splitlines()) == count
    assert sorted(path.name for path in out.iterdir()) == ["front", "legend.png", "rear", "statistics.json"]


def test_one_camera_with_a_name_has_a_folder_and_one_without_has_none(rgb_model, places, tmp_path):
    call(clst_run, rgb_model, "--source", f"front={places[0]}", "--out", tmp_path / "a", "--no-video")
    assert (tmp_path / "a" / "front" / "frames.jsonl").exists()
    done = call(clst_run, rgb_model, "--source", places[0], "--out", tmp_path / "b", "--no-video", "--json")
    assert sorted(path.name for path in (tmp_path / "b").iterdir()) == ["frames.jsonl", "legend.png", "statistics.json"]
    assert "cameras" not in json.loads(done.stdout)


def test_the_lines_of_the_report_name_their_camera(rgb_model, places):
    done = call(clst_run, rgb_model, *two(places), "--frames", "1")
    assert [line.partition(" in ")[0] for line in done.stdout.splitlines() if "frames in" in line] == [
        "front: 1 frames", "rear: 1 frames"]  # fmt: skip


def test_overwriting_removes_the_cameras_of_the_older_run_as_well(rgb_model, places, tmp_path):
    out = tmp_path / "driven"
    assert call(clst_run, rgb_model, *two(places), "--out", out, "--masks").exit_code == 0
    (out / "rear" / "notes.txt").write_text("mine")
    refused = call(clst_run, rgb_model, *two(places), "--out", out)
    assert (refused.exit_code, "exists and is not empty" in refused.stderr) == (3, True)
    front = ("--source", f"front={places[0]}")
    assert call(clst_run, rgb_model, *front, "--out", out, "--no-video", "--overwrite").exit_code == 0
    assert sorted(path.name for path in (out / "rear").iterdir()) == ["notes.txt"]
    assert sorted(path.name for path in (out / "front").iterdir()) == ["frames.jsonl", "legend.png", "statistics.json"]
    assert call(clst_run, rgb_model, "--source", places[0], "--out", out, "--no-video", "--overwrite").exit_code == 0
    assert list((out / "front").iterdir()) == []


def test_what_one_camera_reads_no_other_one_writes_over(rgb_model, places, tmp_path):
    out, video = tmp_path / "driven", tmp_path / "driven" / "front" / f"overlay{video_suffix()}"
    assert call(clst_run, rgb_model, *two(places), "--out", out).exit_code == 0
    before = video.read_bytes()
    for name in ("rear", "other"):
        again = ("--source", f"front={places[0]}", "--source", f"{name}={video}", "--out", out, "--overwrite")
        done = call(clst_run, rgb_model, *again)
        assert done.exit_code == 3
        assert f"{video} is read by this run and removed by --overwrite; give another --out" in done.stderr
    (out / "statistics.json").unlink()
    assert call(clst_run, rgb_model, *again).exit_code == 3
    assert video.read_bytes() == before


def test_a_recording_that_one_camera_reads_is_not_the_mcap_of_another_one(rgb_model, tmp_path):
    pytest.importorskip("mcap")
    pytest.importorskip("rosbags")
    path = tmp_path / "rear.mcap"
    path.write_bytes(b"\x89MCAP0\r\n")
    sources = ("--source", f"front={path}", "--source", f"rear={tmp_path}")
    done = call(clst_run, rgb_model, *sources, "--mcap", tmp_path / "{camera}.mcap", "--overwrite")
    assert (done.exit_code, f"{path} is read by this run; give another --mcap" in done.stderr) == (3, True)


def test_a_long_pipeline_is_no_path_that_the_system_refuses(rgb_model, tmp_path):
    pytest.importorskip("mcap")
    pytest.importorskip("rosbags")
    (tmp_path / "old.mcap").touch()
    source = f"gst:{'queue! ' * 60}appsink"
    again = ("--mcap", tmp_path / "old.mcap", "--overwrite", "--patience", "0.1")
    done = call(clst_run, rgb_model, "--source", source, *again)
    assert done.exit_code == 3
    assert "cannot be opened" in errors(done)[0]


def test_a_camera_that_fails_ends_alone_and_the_exit_code_and_report_tell_it(rgb_model, places, tmp_path):
    (places[0] / "1.png").write_bytes(b"\x89PNG\r\n\x1a\n damaged")
    done = call(clst_run, rgb_model, *two(places), "--out", tmp_path / "out", "--json")
    assert done.exit_code == 3
    cameras = json.loads(done.stdout)["cameras"]
    assert (cameras["front"]["frames"], cameras["front"]["end"]) == (1, "error")
    assert "1.png" in cameras["front"]["failures"][0]
    assert (cameras["rear"]["frames"], cameras["rear"]["failures"]) == (3, [])
    assert "front: state: ended (" in done.stderr
    (line,) = errors(done)
    assert line.startswith("error: not everything was recorded: front: ")
    assert len(frames_of(tmp_path / "out" / "front" / f"overlay{video_suffix()}")) == 1


def test_a_start_that_fails_leaves_nothing_behind(rgb_model, places, tmp_path):
    done = call(clst_run, rgb_model, "--source", f"front={places[0]}", "--source", "rear=none", "--out", tmp_path / "o")
    assert done.exit_code == 3
    assert errors(done)[0].startswith("error: rear: none: no such folder")
    assert not (tmp_path / "o").exists()


def test_masks_of_each_camera_go_to_a_recording_with_topics_of_its_name(rgb_model, places, tmp_path):
    reader = pytest.importorskip("mcap.reader")
    pytest.importorskip("rosbags")
    done = call(clst_run, rgb_model, *two(places), "--mcap", tmp_path / "{camera}_masks.mcap")
    assert done.exit_code == 0
    for name, count in (("front", 2), ("rear", 3)):
        with (tmp_path / f"{name}_masks.mcap").open("rb") as stream:
            topics = [channel.topic for _, channel, _ in reader.make_reader(stream).iter_messages()]
        assert topics == [f"/{name}/classes", *[f"/{name}/mask"] * count]


def test_two_topics_of_a_recording_are_played_as_two_cameras(rgb_model, tmp_path):
    pytest.importorskip("mcap")
    pytest.importorskip("rosbags")
    from tests.support.recordings import SECOND, image, write_mcap

    def topic(size_hw, count):
        frames = [(index * SECOND // 20, image(np.zeros((*size_hw, 3), np.uint8))) for index in range(count)]
        return "sensor_msgs/msg/Image", frames

    path = write_mcap(tmp_path / "drive.mcap", {"/front": topic((16, 32), 40), "/rear": topic((24, 16), 30)})
    sources = [f"{name}={path}?topic=/{name}&rate=1" for name in ("front", "rear")]
    arguments = ["--source", sources[0], "--source", sources[1], "--deadline-ms", "5000", "--statistics-every", "0.2"]
    done = call(clst_run, rgb_model, *arguments, "--stream", f"masks:unix:{tmp_path}/{{camera}}.sock", "--json")
    assert done.exit_code == 0, done.stderr
    cameras = json.loads(done.stdout)["cameras"]
    given = {name: each["frames"] + each["dropped"] for name, each in cameras.items()}
    # The first one that comes begins; of others that came before nobody knows
    assert 1 <= given["front"] <= 39
    assert 1 <= given["rear"] <= 29
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert {line["camera"] for line in lines} == {"front", "rear"}


def test_the_worst_state_is_told_to_the_service_manager_with_each(monkeypatch):
    from clst_runtime.cli import run
    from clst_runtime.cli.run_outputs import OpenCamera
    from clst_runtime.live.statistics import RunStatistics
    from clst_runtime.live.systemd import Notifier

    told = []
    monkeypatch.setattr(Notifier, "_send", lambda _, message: told.append(message))
    watch = run.Watch("fake", None)
    cameras = [
        OpenCamera(order=order, source=None, statistics=RunStatistics(), folder=None)
        for order in cameras_of(["front=camera:0", "rear=camera:1"], NOTHING)
    ]
    ticks = [watch.observers(camera).tick for camera in cameras]
    for tick, camera in zip(ticks, cameras, strict=True):
        tick(camera.statistics)
    cameras[1].statistics.passed({}, lost=True, losses=1)
    ticks[0](cameras[0].statistics)
    assert told == [
        "WATCHDOG=1\nSTATUS=starting (front starting, rear starting)",
        "WATCHDOG=1",
        "WATCHDOG=1\nSTATUS=lost (front starting, rear lost)",
    ]


def bonnet(path, size_hw):
    """The lower half."""
    mask = np.zeros(size_hw, np.uint8)
    mask[size_hw[0] // 2 :] = 1
    write_png(path, mask)
    return path


def test_under_the_ignore_mask_of_a_camera_there_is_no_class(rgb_model, places, tmp_path):
    """The front's mask is twice as large as its images; the rear has none."""
    out, mask = tmp_path / "driven", bonnet(tmp_path / "bonnet.png", (60, 80))
    done = call(
        clst_run, rgb_model, *two(places, "--ignore-mask", f"front={mask}", "--out", out, "--masks", "--pictures")
    )
    assert done.exit_code == 0, done.stderr
    front = np.asarray(Image.open(out / "front" / "masks" / "0.png"))
    assert np.unique(front[:15]).tolist() == [0]
    assert np.unique(front[15:]).tolist() == [255]
    assert np.unique(np.asarray(Image.open(out / "rear" / "masks" / "0.png"))).tolist() == [2]
    picture = np.asarray(Image.open(out / "front" / "overlays" / "0.png"))
    assert np.unique(picture[15:].reshape(-1, 3), axis=0).tolist() == [list(RED)], "the image as it is"
    shares = [json.loads(line)["shares"] for line in (out / "front" / "frames.jsonl").read_text().splitlines()]
    assert [sum(each.values()) for each in shares] == [0.5, 0.5]
    told = json.loads((out / "statistics.json").read_text())["cameras"]
    assert (told["front"]["ignore_mask"], "ignore_mask" in told["rear"]) == (str(mask), False)


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        (["bonnet.png"], 2, "--ignore-mask bonnet.png: say which camera's, as --ignore-mask front=bonnet.png"),
        (["side=bonnet.png"], 2, "--ignore-mask side=bonnet.png: say which camera's, as --ignore-mask front=bon"),
        (["rear=bonnet.png", "rear=all.png"], 2, "--ignore-mask rear=all.png: bonnet.png is given for the same camera"),
        (["rear=none.png"], 3, "none.png: no such file"),
        (["rear=all.png"], 3, "all.png: the ignore mask covers every pixel; non-zero means ignore"),
    ],
)  # fmt: skip
def test_an_ignore_mask_that_cannot_be_is_refused_before_the_model_is_opened(
    places, tmp_path, monkeypatch, given, code, words
):
    monkeypatch.chdir(tmp_path)
    bonnet(tmp_path / "bonnet.png", (15, 20))
    write_png(tmp_path / "all.png", np.full((24, 16), 1, np.uint8))
    done = call(clst_run, "none.onnx", *two(places), *(part for each in given for part in ("--ignore-mask", each)))
    (line,) = errors(done)
    assert (done.exit_code, words in line) == (code, True), line


def test_an_ignore_mask_of_another_shape_ends_that_camera_alone(rgb_model, places, tmp_path):
    mask = bonnet(tmp_path / "bonnet.png", (10, 30))
    done = call(clst_run, rgb_model, *two(places, "--ignore-mask", f"front={mask}", "--json"))
    assert done.exit_code == 3
    told = json.loads(done.stdout)["cameras"]
    assert (told["front"]["frames"], told["rear"]["frames"]) == (0, 3)
    assert f"{mask}: the ignore mask is 30×10, the camera's images are 40×30" in told["front"]["failures"][0]


def test_one_camera_without_a_name_has_an_ignore_mask_too(rgb_model, places, tmp_path):
    mask, out = bonnet(tmp_path / "a=b.png", (30, 40)), tmp_path / "driven"
    done = call(
        clst_run, rgb_model, "--source", places[0], "--ignore-mask", mask, "--out", out, "--masks", "--no-video"
    )
    assert done.exit_code == 0, done.stderr
    assert np.bincount(np.asarray(Image.open(out / "masks" / "1.png")).ravel()).nonzero()[0].tolist() == [0, 255]
