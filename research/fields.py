"""How well the field of view is found, and the two scales of a stretched one, as tables in Markdown.

    python research/fields.py [LIST.csv ...] [--run RUN]

On simulated retinas the field is known: ellipses of a stretch of 0 to 35 %, some with flat sides, on black, grey and
white, from 5 % of the picture up to all of it. LIST.csv is as for `photographs.py`; each photograph is also resized to
a square. The next table counts pictures without a border that are taken for one with a border. With --run, the last
one compares the vessel densities of stretched retinas with those of the same retinas unstretched (`--fast`).
"""

from common import list_photographs, new_parser, print_head, print_row

# isort: split
from collections.abc import Iterator
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image
from scipy.ndimage import gaussian_filter

from retina.field_of_view import find_field
from retina.images import octa_to_grey, read_fundus, read_image
from simulation.eye import TREE_SHARED_BY, Circle, make_stream_eye
from simulation.fundus import render_fundus
from simulation.stream import simulated_pair
from simulation.trees import Window
from synthesis import Synthesiser

SEED = 11
RETINAS, CROPS = 60, 60
SHAPES = ((512, 512), (480, 640), (720, 540), (600, 900), (900, 900))
STRETCH, SHARE = 1.35, (0.05, 1.0)
SURROUNDINGS = ("black", "black", "grey", "bright", "white")
SQUARE = 512  # px
DENSITIES, STRETCHES = 12, (1.05, 1.1, 1.2, 1.35, 1 / 1.1, 1 / 1.35)
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
        appearance=eye.appearance | {"surround": -1},
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
        fundus, *_, fov = simulated_pair(SEED, number)
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


def found_in(fundus: np.ndarray, mask: np.ndarray, stretch: float) -> tuple[float, float]:
    """IoU of the field that is found, and the relative error of its stretch; nan if no round border is seen."""
    field = find_field(fundus)
    iou = (field.mask & mask).sum() / max(1, (field.mask | mask).sum())
    return iou, field.stretch / stretch - 1 if field.radii else np.nan


def print_simulated() -> None:
    """Print how well the fields of simulated retinas are found."""
    found = np.array([found_in(one.fundus, one.mask, one.stretch) for one in map(simulate, range(RETINAS))])
    iou, error = found[:, 0], abs(found[:, 1])
    print_head("median IoU", "worst", "lost", "error of the stretch, median", "worst")
    values = np.median(iou), iou.min(), (iou < LOST).sum(), np.nanmedian(error), np.nanmax(error)
    print_row(f"{RETINAS} simulated retinas", values)


def print_photographs(path: Path) -> None:
    """Print how well the fields of photographs are found, as they are and resized to a square."""
    print_head("IoU", "IoU, square", "error of the stretch")
    for row in list_photographs(path).dropna(subset="mask").itertuples(index=False):
        fundus, mask = read_fundus(row.image), octa_to_grey(read_image(row.mask)) > 127
        square = np.asarray(Image.fromarray(fundus).resize((SQUARE, SQUARE), Image.Resampling.LANCZOS))
        small = np.asarray(Image.fromarray(mask).resize((SQUARE, SQUARE), Image.Resampling.NEAREST))
        whole = found_in(fundus, mask, 1.0)[0]
        print_row(row.image.name, (whole, *found_in(square, small, mask.shape[0] / mask.shape[1])))


def print_densities(run: Path) -> None:
    """Print how the vessel densities of stretched retinas differ from those of the same retinas."""
    synthesiser = Synthesiser(run, fast=True)
    print_head(*(f"{stretch:g}" for stretch in STRETCHES))
    ratios = []
    for number in range(DENSITIES):
        rows, columns = np.ogrid[:700, :700]
        inside = np.hypot(rows - 349.5, columns - 349.5) < 340  # a round field on black
        round_one = retina(number, 700) * inside[..., np.newaxis].astype(np.uint8)
        sizes = [(round(700 * min(1, s)), round(700 * min(1, 1 / s))) for s in STRETCHES]
        images = [Image.fromarray(round_one).resize(size, Image.Resampling.LANCZOS) for size in sizes]
        whole = synthesiser.photograph(round_one).density
        ratios.append([synthesiser.photograph(np.asarray(image)).density / whole for image in images])
    print_row("median of density / that of the round one", np.median(ratios, axis=0))
    print_row("farthest from 1", [column[abs(column - 1).argmax()] for column in np.transpose(ratios)])


def main() -> None:
    """Print the tables."""
    parser = new_parser(__doc__)
    parser.add_argument("lists", type=Path, nargs="*", metavar="LIST.csv")
    parser.add_argument("--run", type=Path, metavar="RUN")
    options = parser.parse_args()
    print_simulated()
    for path in options.lists:
        print_photographs(path)
    kinds = [(kind, not find_field(picture).mask.all()) for kind, picture in no_fields()]
    print_head("of", "taken for one with a border")
    for kind in dict.fromkeys(kind for kind, _ in kinds):
        of_kind = [wrong for name, wrong in kinds if name == kind]
        print_row(kind, (str(len(of_kind)), str(sum(of_kind))))
    if options.run:
        print_densities(options.run)


if __name__ == "__main__":
    main()
