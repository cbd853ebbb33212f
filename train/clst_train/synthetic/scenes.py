"""Synthetic road scenes: a small world on a ground plane, drawn through a pinhole, then photographed; exact labels.

World axes in metres: x to the right, y up from the road, z ahead. Legend: H rows, W columns of the image.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from clst_runtime.classes.labels import load_class_list
from clst_runtime.errors import DataError
from clst_runtime.imaging.image_files import write_png
from clst_runtime.system.files.atomic import folder_written_whole, write_text
from clst_runtime.system.files.paths import check_new_folder
from clst_runtime.system.optional import require
from clst_train.synthetic.camera_looks import Look, photograph

SCENE_CLASSES = "scenes10"
ROAD, SIDEWALK, BUILDING, POLE, SIGN, VEGETATION, SKY, PERSON, CAR, BICYCLE = range(10)
NEAR_M, FAR_M = 1.2, 110.0
_SHIFT = 4  # fractional bits of OpenCV's fixed-point coordinates
_TURN = np.linspace(0, 2 * np.pi, 14, endpoint=False)
_CIRCLE = np.stack([np.cos(_TURN), np.sin(_TURN)], axis=1)  # 14,2
Image = npt.NDArray[np.uint8]
Colour = tuple[float, float, float]
Points = Sequence[tuple[float, float, float]]


@dataclass(frozen=True, kw_only=True)
class Thing:
    """Something that stands at the road."""

    kind: str
    """What draws it: building, tree, bush, pole, sign, car, person or bicycle."""
    x: float
    """Metres right of the road's middle line."""
    z: float
    """Metres ahead."""
    size: tuple[float, float, float]
    """Width, height and depth in metres."""
    colour: Colour
    """RGB 0–255."""
    variant: int
    """Chooses details of its shape."""


@dataclass(frozen=True, kw_only=True)
class World:
    """One road and all that stands at it; independent of the camera."""

    half_road_m: float
    """Half the width of the road."""
    sidewalk_m: float
    """Width of each sidewalk."""
    bend: float
    """Curvature: metres to the side at 100 m ahead."""
    colours: Mapping[str, Colour]
    """RGB of road, sidewalk, ground, sky top, sky bottom, marking."""
    clouds: tuple[tuple[float, float, float, float], ...]
    """Centre across and up (0 … 1), width and height of each cloud."""
    things: tuple[Thing, ...]
    """Far ones first."""
    dashes: float
    """Offset of the middle line's dashes in metres."""


def _tone(rng: np.random.Generator, low: int, high: int, tint: float = 12.0) -> Colour:
    base, shift = rng.uniform(low, high), rng.uniform(-tint, tint, 3)
    return (float(base + shift[0]), float(base + shift[1]), float(base + shift[2]))


def _hue(rng: np.random.Generator, low: int, high: int) -> Colour:
    red, green, blue = rng.uniform(low, high, 3)
    return (float(red), float(green), float(blue))


def draw_world(rng: np.random.Generator, *, length_m: float = FAR_M) -> World:
    """A random road with all that stands at it."""
    half, walk = rng.uniform(3.2, 5.0), rng.uniform(1.8, 3.5)
    sky = rng.choice([0, 1, 2])
    top = [(90, 140, 220), (150, 165, 185), (110, 150, 205)][sky]
    bottom = [(190, 215, 240), (205, 208, 212), (235, 215, 190)][sky]
    green = rng.uniform(0.8, 1.2)
    colours = {
        "road": _tone(rng, 75, 125, 6),
        "sidewalk": _tone(rng, 140, 190, 14),
        "ground": (90 * green, 125 * green, 60 * green),
        "top": top,
        "bottom": bottom,
        "marking": _tone(rng, 215, 245, 5),
    }
    clouds = tuple(
        (rng.uniform(), rng.uniform(0.05, 0.8), rng.uniform(0.05, 0.25), rng.uniform(0.02, 0.07))
        for _ in range(rng.integers(0, 6))
    )
    things = [*_roadside(rng, half, walk, length_m), *_traffic(rng, half, walk, length_m)]
    return World(
        half_road_m=half,
        sidewalk_m=walk,
        bend=rng.uniform(-14, 14),
        colours=colours,
        clouds=clouds,
        things=tuple(sorted(things, key=lambda thing: -thing.z)),
        dashes=rng.uniform(0, 9),
    )


def _roadside(rng: np.random.Generator, half: float, walk: float, length_m: float) -> Iterator[Thing]:
    """Buildings, trees, bushes, poles and signs on both sides."""
    for side in (-1.0, 1.0):
        z, city = float(rng.uniform(2, 8)), rng.uniform(0.25, 0.85)
        while z < length_m:
            edge = half + walk
            if rng.random() < city:
                width, height, depth = rng.uniform(6, 12), rng.uniform(4, 16), rng.uniform(6, 16)
                x = side * (edge + width / 2 + rng.uniform(0, 2))
                yield Thing(
                    kind="building", x=x, z=z, size=(width, height, depth), colour=_hue(rng, 90, 215),
                    variant=int(rng.integers(4)),
                )  # fmt: skip
                z += depth + rng.uniform(0, 2)
            else:
                tall = rng.random() < 0.65
                size = rng.uniform(2.0, 5.0) if tall else rng.uniform(0.8, 2.2)
                shade = rng.uniform(0.6, 1.25)
                yield Thing(
                    kind="tree" if tall else "bush", x=side * (edge + rng.uniform(0.3, 4)), z=z,
                    size=(size, size * rng.uniform(1.0, 1.7), size), colour=(60 * shade, 100 * shade, 45 * shade),
                    variant=int(rng.integers(1000)),
                )  # fmt: skip
                z += rng.uniform(2, 7)
        for z_pole in np.arange(rng.uniform(4, 14), length_m, rng.uniform(9, 18)):
            sign = rng.random() < 0.55
            yield Thing(
                kind="sign" if sign else "pole", x=side * (half + rng.uniform(0.25, 0.6)), z=float(z_pole),
                size=(rng.uniform(0.12, 0.2), rng.uniform(2.4, 3.2) if sign else rng.uniform(4.5, 7.5), 0.1),
                colour=_tone(rng, 70, 150, 5), variant=int(rng.integers(5)),
            )  # fmt: skip


def _traffic(rng: np.random.Generator, half: float, walk: float, length_m: float) -> Iterator[Thing]:
    """Cars on the road and parked, people and bicycles."""
    for _ in range(int(rng.integers(3, 8))):
        lane = rng.choice([-half + 1.1, half - 1.1, half / 2, -half / 2])
        yield Thing(
            kind="car", x=float(lane + rng.uniform(-0.2, 0.2)), z=float(rng.uniform(7, length_m * 0.6)),
            size=(rng.uniform(1.7, 2.0), rng.uniform(1.4, 2.0), rng.uniform(3.6, 4.8)), colour=_hue(rng, 20, 235),
            variant=int(rng.integers(4)),
        )  # fmt: skip
    for kind, low, high in (("person", 3, 9), ("bicycle", 2, 5)):
        for _ in range(int(rng.integers(low, high))):
            side = rng.choice([-1.0, 1.0])
            on_walk = rng.random() < 0.8 if kind == "person" else rng.random() < 0.4
            x = side * (half + rng.uniform(0.3, walk - 0.2)) if on_walk else rng.uniform(-half, half)
            height = rng.uniform(1.55, 1.9) if kind == "person" else rng.uniform(1.0, 1.15)
            width = height * 0.34 if kind == "person" else rng.uniform(1.0, 1.7)
            yield Thing(
                kind=kind, x=float(x), z=float(rng.uniform(5, length_m * 0.35)), size=(width, height, 0.4),
                colour=_hue(rng, 15, 225), variant=int(rng.integers(1000)),
            )  # fmt: skip


class Canvas:
    """The image, its labels, how near each pixel is and which shine, drawn far to near."""

    def __init__(
        self, world: World, size_hw: tuple[int, int], field_deg: float, mounting: tuple[float, float], z0: float
    ) -> None:
        self.rows, self.columns = size_hw
        height, pitch = mounting
        self.height, self.z0, self.bend = height, z0, world.bend
        self.focal = self.columns / 2 / np.tan(np.radians(field_deg) / 2)
        self.sine, self.cosine = np.sin(np.radians(pitch)), np.cos(np.radians(pitch))
        self.horizon = self.rows / 2 - self.focal * np.tan(np.radians(pitch))
        self.image: Image = np.zeros((*size_hw, 3), np.uint8)
        self.labels: Image = np.full(size_hw, SKY, np.uint8)
        self.lights: Image = np.zeros(size_hw, np.uint8)
        self.cv2 = require("cv2")

    def project(self, points: Points) -> npt.NDArray[np.float64]:
        """World points P,3 to image coordinates P,2 (x, y); the road's bend moves them sideways."""
        world = np.asarray(points, np.float64)
        z = np.maximum(world[:, 2], NEAR_M)
        x = world[:, 0] + self.bend * ((z + self.z0) / 100.0) ** 2 - self.bend * (self.z0 / 100.0) ** 2
        y = self.height - world[:, 1]
        depth = np.maximum(z * self.cosine + y * self.sine, 0.3)
        down = y * self.cosine - z * self.sine
        corners = np.empty((len(world), 2))
        corners[:, 0] = self.columns / 2 + self.focal * x / depth
        corners[:, 1] = self.rows / 2 + self.focal * down / depth
        return corners

    def polygon(self, corners: npt.NDArray[np.float64], colour: Colour, label: int | None) -> None:
        """Fill a convex or simple polygon P,2; antialiased in the image, not in the labels."""
        limit = 30000.0
        fixed = np.rint(np.minimum(np.maximum(corners, -limit), limit) * (1 << _SHIFT)).astype(np.int32)
        tone = tuple(min(max(float(value), 0.0), 255.0) for value in colour)  # np.clip is slow on single numbers
        self.cv2.fillPoly(self.image, [fixed], tone, self.cv2.LINE_AA, _SHIFT)
        if label is not None:
            self.cv2.fillPoly(self.labels, [fixed], int(label), self.cv2.LINE_8, _SHIFT)

    def ellipse(self, centre: npt.NDArray[np.float64], radius: tuple[float, float], colour: Colour, label: int) -> None:
        """Fill an upright ellipse."""
        self.polygon(centre + _CIRCLE * radius, colour, label)

    def upright(self, x: float, z: float, low: float, high: float, width: float) -> npt.NDArray[np.float64]:
        """Corners of an upright rectangle that faces the camera: left low, left high, right high, right low."""
        left, right = x - width / 2, x + width / 2
        return self.project([(left, low, z), (left, high, z), (right, high, z), (right, low, z)])


def _shade(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


def _ground(canvas: Canvas, world: World, rng: np.random.Generator) -> None:
    """Sky, verge, sidewalks, road and markings."""
    rows = np.linspace(0, 1, max(1, int(np.clip(canvas.horizon + 2, 1, canvas.rows))))[:, None]
    top, bottom = np.array(world.colours["top"]), np.array(world.colours["bottom"])
    canvas.image[: len(rows)] = (top * (1 - rows) + bottom * rows).astype(np.uint8)[:, None]
    for across, up, width, height in world.clouds:
        centre = np.array([across * canvas.columns, up * max(canvas.horizon, 1.0)])
        canvas.ellipse(centre, (width * canvas.columns, height * canvas.rows), (225, 228, 232), SKY)
    ahead = np.concatenate([np.geomspace(NEAR_M, FAR_M, 24)])

    def strip(left: float, right: float, colour: Colour, label: int | None, y: float = 0.0) -> None:
        edge = [(left, y, z) for z in ahead] + [(right, y, z) for z in ahead[::-1]]
        canvas.polygon(canvas.project(edge), colour, label)

    half, walk = world.half_road_m, world.sidewalk_m
    strip(-220, 220, world.colours["ground"], VEGETATION)
    strip(-half - walk, half + walk, world.colours["sidewalk"], SIDEWALK)
    strip(-half - 0.12, half + 0.12, _shade(world.colours["sidewalk"], 0.75), SIDEWALK)
    strip(-half, half, world.colours["road"], ROAD)
    for patch in range(3):
        x, z = rng.uniform(-half, half - 1), rng.uniform(3, 30)
        spot = [(x, 0.0, z), (x + 1.4, 0.0, z), (x + 1.4, 0.0, z + 4), (x, 0.0, z + 4)]
        canvas.polygon(canvas.project(spot), _shade(world.colours["road"], 0.85 + 0.1 * patch), None)
    for side in (-1, 1):
        strip(side * (half - 0.35) - 0.06, side * (half - 0.35) + 0.06, world.colours["marking"], None)
    for start in np.arange(NEAR_M - (canvas.z0 + world.dashes) % 9.0, FAR_M, 9.0):
        low, high = max(NEAR_M, start), start + 4.0
        if high > NEAR_M:
            dash = [(-0.07, 0.0, low), (0.07, 0.0, low), (0.07, 0.0, high), (-0.07, 0.0, high)]
            canvas.polygon(canvas.project(dash), world.colours["marking"], None)


def _building(canvas: Canvas, thing: Thing, z: float) -> None:
    width, height, depth = thing.size
    inner = thing.x - np.sign(thing.x) * width / 2
    near = max(z, NEAR_M)
    side = canvas.project([(inner, 0, near), (inner, height, near), (inner, height, z + depth), (inner, 0, z + depth)])
    canvas.polygon(side, _shade(thing.colour, 0.8), BUILDING)
    if z > NEAR_M:
        canvas.polygon(canvas.upright(thing.x, z, 0, height, width), thing.colour, BUILDING)
    glass: Colour = (70, 85, 105) if thing.variant % 2 else (190, 200, 205)
    corners = [corner for floor in np.arange(1.0, height - 1.2, 2.8) for corner in _windows(thing, z, float(floor))]
    if corners:  # projected together: a street has hundreds of windows
        for pane in canvas.project(corners).reshape(-1, 4, 2):
            canvas.polygon(pane, glass, None)


def _windows(thing: Thing, z: float, floor: float) -> Iterator[tuple[float, float, float]]:
    """Four world corners of each window of one floor: those along the road, then those that face the camera."""
    width, _, depth = thing.size
    inner, top = thing.x - np.sign(thing.x) * width / 2, floor + 1.4
    for start in np.arange(0.8, depth - 1.4, 2.4):
        if z + start > NEAR_M:
            a, b = z + start, z + start + 1.2
            yield from ((inner, floor, a), (inner, top, a), (inner, top, b), (inner, floor, b))
    if z > NEAR_M:
        for start in np.arange(0.9, width - 1.2, 2.6):
            middle = thing.x - width / 2 + start + 0.6
            left, right = middle - 1.2 / 2, middle + 1.2 / 2
            yield from ((left, floor, z), (left, top, z), (right, top, z), (right, floor, z))


def _plant(canvas: Canvas, thing: Thing, z: float) -> None:
    width, height, _ = thing.size
    trunk = height * 0.35 if thing.kind == "tree" else 0.0
    if trunk:
        canvas.polygon(canvas.upright(thing.x, z, 0, trunk + 0.4, 0.25), (85, 65, 50), VEGETATION)
    rng = np.random.default_rng(thing.variant)
    scale = canvas.focal / z
    for _ in range(7):
        x = thing.x + rng.uniform(-0.3, 0.3) * width
        y = trunk + (height - 0.2) * rng.uniform(0.3, 0.8)
        leaf = _shade(thing.colour, rng.uniform(0.7, 1.3))
        radius = rng.uniform(0.22, 0.38) * width * scale
        canvas.ellipse(canvas.project([(x, y, z)])[0], (radius, radius * 0.9), leaf, VEGETATION)


def _post(canvas: Canvas, thing: Thing, z: float) -> None:
    width, height, _ = thing.size
    canvas.polygon(canvas.upright(thing.x, z, 0, height, width), thing.colour, POLE)
    if thing.kind == "pole":
        arm = thing.x - np.sign(thing.x) * 0.7
        canvas.polygon(canvas.upright((thing.x + arm) / 2, z, height - 0.15, height, 0.9), thing.colour, POLE)
        lamp = canvas.upright(arm, z, height - 0.3, height - 0.1, 0.5)
        canvas.cv2.fillPoly(canvas.lights, [lamp.clip(-9999, 9999).astype(np.int32)], 255)
        return
    face = canvas.project([(thing.x, height, z)])[0]
    radius = 0.42 * canvas.focal / z
    red, blue, white, yellow = (200, 30, 35), (30, 70, 180), (235, 235, 235), (235, 200, 40)
    match thing.variant:
        case 0 | 1:
            canvas.ellipse(face, (radius, radius), red, SIGN)
            canvas.ellipse(face, (radius * 0.65, radius * 0.65), white, SIGN)
        case 2:
            canvas.ellipse(face, (radius, radius), blue, SIGN)
        case 3:
            tip = np.array([[0, -1.1], [1.05, 0.8], [-1.05, 0.8]]) * radius + face
            canvas.polygon(tip, red, SIGN)
            canvas.polygon((tip - face) * 0.6 + face, white, SIGN)
        case _:
            canvas.polygon(np.array([[0, -1.2], [1.2, 0], [0, 1.2], [-1.2, 0]]) * radius + face, yellow, SIGN)


def _car(canvas: Canvas, thing: Thing, z: float) -> None:
    width, height, depth = thing.size
    base, belt = 0.25, height * 0.58
    inner = thing.x - np.sign(thing.x) * width / 2
    if abs(inner) > 0.4:
        far = z + depth
        flank = [(inner, base, z), (inner, belt, z), (inner, height, z + depth * 0.25), (inner, height, far - 0.6),
                 (inner, belt, far), (inner, base, far)]  # fmt: skip
        canvas.polygon(canvas.project(flank), _shade(thing.colour, 0.75), CAR)
        pane = [(inner, belt, z + 0.5), (inner, height - 0.15, z + depth * 0.3), (inner, height - 0.15, far - 0.9),
                (inner, belt, far - 0.4)]  # fmt: skip
        canvas.polygon(canvas.project(pane), (45, 55, 65), CAR)
    canvas.polygon(canvas.upright(thing.x, z, base, belt, width), thing.colour, CAR)
    roof = canvas.project(
        [(thing.x - width / 2, belt, z), (thing.x - width * 0.38, height, z), (thing.x + width * 0.38, height, z),
         (thing.x + width / 2, belt, z)]
    )  # fmt: skip
    canvas.polygon(roof, _shade(thing.colour, 0.9), CAR)
    canvas.polygon(roof.mean(axis=0) + (roof - roof.mean(axis=0)) * 0.75, (50, 60, 72), CAR)
    lamp: Colour = (200, 25, 25) if thing.x > 0 else (240, 235, 200)
    for side in (-1, 1):
        x = thing.x + side * width * 0.38
        canvas.polygon(canvas.upright(x, z, 0.0, base + 0.1, 0.26), (22, 22, 24), CAR)
        light = canvas.upright(x, z, belt - 0.3, belt - 0.08, 0.3)
        canvas.polygon(light, lamp, CAR)
        canvas.cv2.fillPoly(canvas.lights, [light.clip(-9999, 9999).astype(np.int32)], 255)


def _person(canvas: Canvas, thing: Thing, z: float, *, lift: float = 0.0, label: int = PERSON) -> None:
    width, height, _ = thing.size
    scale = canvas.focal / z
    trousers = _shade((thing.colour[2], thing.colour[0], thing.colour[1]), 0.6)
    stride = 0.1 * (thing.variant % 3)
    for side in (-1, 1):
        foot, hip = lift, lift + height * 0.5
        corners = ((0.08 + stride, foot), (0.02, hip), (0.2, hip), (0.2 + stride, foot))
        leg = canvas.project([(thing.x + side * across, up, z) for across, up in corners])
        canvas.polygon(leg, trousers, label)
    canvas.polygon(canvas.upright(thing.x, z, lift + height * 0.45, lift + height * 0.86, width), thing.colour, label)
    head = canvas.project([(thing.x, lift + height * 0.93, z)])[0]
    canvas.ellipse(head, (height * 0.075 * scale, height * 0.085 * scale), (205, 160, 130), label)


def _bicycle(canvas: Canvas, thing: Thing, z: float) -> None:
    width, height, _ = thing.size
    scale = canvas.focal / z
    for side in (-1, 1):
        hub = canvas.project([(thing.x + side * width * 0.32, 0.35, z)])[0]
        canvas.ellipse(hub, (0.36 * scale * min(1.0, width), 0.36 * scale), (30, 30, 33), BICYCLE)
        canvas.ellipse(hub, (0.24 * scale * min(1.0, width), 0.24 * scale), (125, 125, 128), BICYCLE)
    frame = canvas.project([(thing.x - width * 0.3, 0.35, z), (thing.x - width * 0.1, height * 0.85, z),
                            (thing.x + width * 0.25, height, z), (thing.x + width * 0.3, 0.4, z)])  # fmt: skip
    canvas.polygon(frame, thing.colour, BICYCLE)
    if thing.variant % 2:
        rider = Thing(kind="person", x=thing.x, z=z, size=(0.5, 1.45, 0.3), colour=_shade(thing.colour, 0.8), variant=0)
        _person(canvas, rider, z, lift=0.45)


_DRAWERS = {"building": _building, "tree": _plant, "bush": _plant, "pole": _post, "sign": _post, "car": _car,
            "person": _person, "bicycle": _bicycle}  # fmt: skip


def _paint(world: World, rng: np.random.Generator, look: Look, size_hw: tuple[int, int], z0: float) -> Canvas:
    mounting = (rng.uniform(*look.height_m), rng.uniform(*look.pitch_deg))
    canvas = Canvas(world, size_hw, look.camera.old_field_of_view_deg, mounting, z0)
    _ground(canvas, world, rng)
    for thing in world.things:
        z = thing.z - z0
        behind = z + thing.size[2] < NEAR_M + 0.5 if thing.kind == "building" else z < 2.5
        if not behind and z < FAR_M:
            _DRAWERS[thing.kind](canvas, thing, z)
    return canvas


def _expose(canvas: Canvas, rng: np.random.Generator, look: Look) -> tuple[Image, Image]:
    down = np.arange(canvas.rows, dtype=np.float32)[:, None].repeat(canvas.columns, axis=1)
    nearness = np.clip((down - canvas.horizon) / max(canvas.rows - canvas.horizon, 1.0), 0, 1).astype(np.float32)
    lights = canvas.lights.astype(np.float32) / 255.0
    return photograph(rng, look, canvas.image, canvas.labels, nearness, lights)


def draw_scene(rng: np.random.Generator, look: Look, size_hw: tuple[int, int]) -> tuple[Image, Image]:
    """One scene as a camera sees it: image H,W,3 RGB and labels H,W in the class list `scenes10`.

    The world is drawn from `rng` before the camera, so the same generator state gives one world to every look.
    """
    world = draw_world(rng)
    canvas = _paint(world, rng, look, size_hw, 0.0)
    return _expose(canvas, rng, look)


def draw_drive(
    seed: int, look: Look, size_hw: tuple[int, int], frame_count: int, *, step_m: float = 0.4
) -> Iterator[tuple[Image, Image]]:
    """A drive through one world: frames H,W,3 and labels H,W, `step_m` metres apart."""
    world = draw_world(np.random.default_rng([seed, 0]), length_m=FAR_M + frame_count * step_m)
    for index in range(frame_count):
        camera = np.random.default_rng([seed, 1])  # the same mount and light in every frame
        canvas = _paint(world, camera, look, size_hw, index * step_m)
        yield _expose(canvas, camera, look)


def write_scenes(out: Path, *, look: Look, counts: Mapping[str, int], size_hw: tuple[int, int], seed: int) -> None:
    """Write scenes in the folder layout: images/<split>, labels/<split>, classes.json.

    Raises:
        DataError: the folder exists and is not empty, or the size or a count cannot be used.
    """
    check_new_folder(out, hint="give another folder")
    if min(size_hw) < 32 or min(counts.values(), default=0) < 0:
        raise DataError(f"scenes of {size_hw[0]}x{size_hw[1]} in numbers {dict(counts)}; give at least 32x32 and 0")
    with folder_written_whole(out) as made:
        for position, (split, count) in enumerate(counts.items()):
            for index in range(count):
                image, labels = draw_scene(np.random.default_rng([seed, position, index]), look, size_hw)
                write_png(made / "images" / split / f"{index:05d}.png", image)
                write_png(made / "labels" / split / f"{index:05d}.png", labels)
        classes = load_class_list(SCENE_CLASSES).to_json() | {"look": look.name}
        write_text(made / "classes.json", json.dumps(classes, indent=1) + "\n")
