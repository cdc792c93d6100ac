"""How well the field of view is found, and the two scales of a stretched one, as tables in Markdown.

    python research/fields.py [LIST.csv ...] [--beside MODULE.py]

On simulated retinas the field is known: ellipses of a stretch of 0 to 35 %, some with flat sides, on black, grey and
white, from 5 % of the picture up to all of it. LIST.csv is as for `photographs.py`; each photograph is also resized to
a square. The last table counts pictures without a border that are taken for one with a border. `--beside` measures
another version of `retina/field_of_view.py`, too. Times are relative to sorting a million random numbers.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter

import retina.field_of_view as camera_field
from simulation.eye import TREE_SHARED_BY, Circle, make_stream_eye
from simulation.fundus import render_fundus
from simulation.stream import sample_pair
from simulation.trees import Window

SEED = 11
RETINAS, CROPS = 60, 60
SHAPES = ((512, 512), (480, 640), (720, 540), (600, 900), (900, 900))
STRETCH, SHARE = 1.35, (0.05, 1.0)
SURROUNDINGS = ("black", "black", "grey", "bright", "white")
SQUARE = 512  # px
LOST = 0.95  # IoU
NO_RETINA = ("astronaut", "brick", "camera", "cat", "coffee", "coins", "grass", "gravel", "moon", "page", "text")


@dataclass(frozen=True)
class Simulated:
    """A retina (height, width, 3), uint8, its field (height, width), bool, its stretch and what surrounds it."""

    fundus: np.ndarray
    mask: np.ndarray
    stretch: float
    surroundings: str


def retina(number: int, pixels: int) -> np.ndarray:
    """The `number`-th simulated retina without a border: (pixels, pixels, 3), uint8; its light fades to the rim."""
    eye, _ = make_stream_eye(SEED, number * TREE_SHARED_BY, pixels)
    centre, radius = complex(1.0, 0.0), 6.0
    window = Window(centre, 2 * radius, pixels)
    eye = replace(
        eye,
        field=Circle(centre, np.inf),
        light=Circle(centre, radius),
        features=eye.features - {"border", "cut", "passing"},
        look=eye.look | {"surround": -1},
    )
    return render_fundus(eye, window, eye.vessels(window, 0.012), eye.rng("photograph"))


def simulate(number: int) -> Simulated:
    """The `number`-th simulated retina with a field of view."""
    random = np.random.default_rng([SEED, number])
    height, width = shape = SHAPES[number % len(SHAPES)]
    surroundings = SURROUNDINGS[random.integers(len(SURROUNDINGS))]
    share = 1.0 if number % 15 == 14 else SHARE[0] * (0.95 / SHARE[0]) ** random.random()
    stretch = 1.0 if random.random() < 0.25 else STRETCH ** random.uniform(-1, 1)
    cuts = random.uniform(0.6, 0.95, 4) + 9 * (random.random(4) < (0.6 if random.random() < 0.5 else 1))
    towards = random.uniform(-1, 1, 2)
    rows, columns = np.ogrid[:height, :width]

    def place(size: float) -> tuple[np.ndarray, np.ndarray]:
        """Coordinates (2, height, width) in which the field is the unit circle, and depth: 0 at its border, in px."""
        radii = size / np.array([stretch**0.5, stretch**-0.5])
        room = np.maximum(np.array(shape) / 2 - radii - 3, 0.03 * radii)
        centre = np.array(shape) / 2 - 0.5 + towards * room
        y, x = (rows - centre[0]) / radii[0], (columns - centre[1]) / radii[1]
        inside = np.minimum.reduce(
            np.broadcast_arrays(1 - np.hypot(y, x), cuts[0] + y, cuts[1] - y, cuts[2] + x, cuts[3] - x)
        )
        return np.stack(np.broadcast_arrays(y, x)), inside * size

    low, high = 10.0, 3.0 * max(shape)
    for _ in range(25):
        middle = (low * high) ** 0.5
        low, high = (middle, high) if (place(middle)[1] > 0).mean() < share else (low, middle)
    places, depth = place(high)
    picture = retina(number, 900)
    reduced = Image.fromarray(picture).resize([int(np.clip(2 * high, 40, 900))] * 2, Image.Resampling.BOX)
    at = ((places * 0.97 + 1) / 2 * reduced.width).astype(int).clip(0, reduced.width - 1)
    inner = np.asarray(reduced, np.float32)[at[0], at[1]]
    grey = {"black": 0, "grey": random.uniform(10, 70), "bright": random.uniform(90, 230), "white": 255}[surroundings]
    tint = random.uniform(0.7, 1, 3) if surroundings == "grey" else np.ones(3)
    rim = random.uniform(0.6, max(0.7, 0.012 * high))
    cover = np.clip(depth / rim + 0.5, 0, 1)[..., np.newaxis]
    image = inner * cover + grey * tint * (1 - cover)
    if surroundings in ("grey", "bright"):
        image += (
            random.uniform(0, 3) * gaussian_filter(random.standard_normal(shape), random.uniform(0, 0.5))[..., None]
        )
    file = BytesIO()
    Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=int(random.integers(70, 97)))
    return Simulated(np.asarray(Image.open(file)), depth > 0, stretch, surroundings)


def no_fields() -> Iterator[tuple[str, np.ndarray]]:
    """Pictures without the border of a field: crops inside simulated retinas, and other things."""
    found = 0
    for number in range(0, 10**6, TREE_SHARED_BY):
        fundus, _, fov = sample_pair(SEED, number)
        if fov.all():
            yield "crop of a retina", fundus
            found += 1
        if found == CROPS:
            break
    for number in range(20):
        yield "middle of a whole retina", retina(number, 700)[150:550, 150:550]
    for name in NO_RETINA:
        picture = getattr(skimage.data, name)()
        yield "no retina", np.ascontiguousarray(np.dstack([picture] * 3) if picture.ndim == 2 else picture[..., :3])


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks."""
    return (one & other).sum() / max(1, (one | other).sum())


def unit_of_time() -> float:
    """Seconds that this machine takes to sort a million random numbers."""
    values = np.random.default_rng(0).random(10**6)
    started = time.perf_counter()
    np.sort(values)
    return time.perf_counter() - started


def stretch_of(field: camera_field.Field) -> float:
    """The stretch found; nan if none is seen."""
    return field.stretch if getattr(field, "radii", None) else np.nan


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lists", type=Path, nargs="*", metavar="LIST.csv")
    parser.add_argument("--beside", type=Path, metavar="MODULE.py")
    args = parser.parse_args()
