"""Which photographs count as usable: simulated retinas, intact and degraded, and pictures of other things.

    python research/confidence.py RUN [--list LIST.csv]

Prints for each kind of picture how many are usable, and why the others are doubtful. The simulated photographs come
from a seed that was not used for any run or for choosing any limit. The other pictures are made here (a chart, a
B-scan, noise, a plain surface) or come with scikit-image. --list adds real photographs, as for photographs.py.
"""

from common import list_photographs, new_parser, predicted_photograph, predictor_of

# isort: split
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

import numpy as np
import skimage.data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter

from retina.images import read_fundus
from simulation.dataset import render_full_field
from simulation.eye import make_eye
from synthesis.confidence import assess

SEED, SUBJECTS = 11, range(301, 309)
WITH_SCIKIT_IMAGE = (
    *("astronaut", "brick", "camera", "cell", "cat", "coffee", "coins", "colorwheel", "grass", "gravel", "horse"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "rocket", "text"),
)


def in_colour(image: np.ndarray) -> np.ndarray:
    """An image of any kind as (height, width, 3), uint8."""
    image = np.uint8(image * 255) if image.dtype == bool else image
    return np.ascontiguousarray(image[..., :3] if image.ndim == 3 else image[..., np.newaxis].repeat(3, -1))


def pictures(photographs: Path | None) -> Iterator[tuple[str, str, np.ndarray]]:
    """Kind, name and image of each picture."""
    for subject in SUBJECTS:
        fundus = render_full_field(make_eye(subject, "OD", SEED))
        yield "intact", str(subject), fundus
        for sigma in (2, 4, 8):
            yield f"blurred, {sigma} px", str(subject), gaussian_filter(fundus, (sigma, sigma, 0))
        noise = np.random.default_rng(subject).normal(0, 3, fundus.shape)
        for share in (0.3, 0.15):
            yield f"darkened to {share:.0%}", str(subject), np.clip(share * fundus + noise, 0, 255).astype(np.uint8)
        cut = fundus.copy()
        cut[:, 350:] = 0
        yield "two thirds cut off", str(subject), cut
    for name in WITH_SCIKIT_IMAGE:
        yield "other pictures", name, in_colour(getattr(skimage.data, name)())
    cat = skimage.data.cat()
    rows, columns = (np.arange(size) - size / 2 for size in cat.shape[:2])
    inside = np.hypot(rows[:, np.newaxis], columns) < 0.47 * min(cat.shape[:2])
    yield "other pictures", "cat in a round field", cat * inside[..., np.newaxis].astype(np.uint8)
    random = np.random.default_rng(0)
    figure = Figure(figsize=(6, 5))
    figure.add_subplot().plot(random.normal(size=(200, 3)).cumsum(axis=0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    yield "other pictures", "chart", in_colour(np.asarray(canvas.buffer_rgba()))
    row, column = np.linspace(0, 1, 500)[:, np.newaxis], np.linspace(0, 1, 700)
    layers = ((0.4, 0.02, 0.9), (0.45, 0.03, 0.4), (0.5, 0.02, 0.6), (0.56, 0.02, 0.8), (0.6, 0.03, 1))
    scan = sum(a * np.exp(-(((row - y - 0.05 * np.sin(3 * column)) / w) ** 2)) for y, w, a in layers)
    speckled = np.clip(scan * random.rayleigh(0.8, scan.shape), 0, 1)
    yield "other pictures", "B-scan", in_colour(np.uint8(255 * speckled))
    yield "other pictures", "noise", random.integers(0, 256, (600, 600, 3), np.uint8)
    yield "other pictures", "plain surface", np.full((600, 600, 3), (180, 90, 50), np.uint8)
    if photographs is not None:
        for image in list_photographs(photographs)["image"]:
            yield "real photographs", image.stem, read_fundus(image)


def main() -> None:
    """Print a line for each picture, then the table."""
    parser = new_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--list", type=Path, metavar="LIST.csv")
    args = parser.parse_args()
    predictor = predictor_of(args.run)
    doubts: dict[str, list[tuple[str, ...]]] = {}
    for kind, name, fundus in pictures(args.list):
        fov, diameter, predicted, vessels = predicted_photograph(predictor, fundus)
        confidence = assess(fundus, fov, diameter, predicted.probability, vessels)
        doubts.setdefault(kind, []).append(confidence.doubts)
        values = ", ".join(f"{value:.3g}" for value in astuple(confidence)[:4])
        print(f"{kind}, {name}: {values}: {confidence}", flush=True)
    print("\n| pictures | usable | doubtful because |\n|---|---|---|")
    for kind, found in doubts.items():
        reasons = Counter(doubt for of_picture in found for doubt in of_picture)
        named = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        print(f"| {kind} | {sum(not of_picture for of_picture in found)} of {len(found)} | {named} |")


if __name__ == "__main__":
    main()
