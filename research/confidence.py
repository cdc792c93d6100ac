"""Which vessel maps count as doubtful: of simulated retinas, intact and deliberately degraded, and of other images.

    python research/confidence.py RUN [--list LIST.csv]

Prints for each kind of image how many are usable, and why the others are doubtful. The simulated photographs come from
a seed that was not used for any run or for choosing any limit. The other images are drawn, or come with scikit-image.
--list adds real photographs, as for photographs.py.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import astuple
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow

load_tensorflow()

import numpy as np
import pandas as pd
import skimage.data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from pictures import predicted_photograph
from scipy.ndimage import gaussian_filter

from retina.images import read_fundus
from run.checkpoints import read_run
from run.predict import load_predictor
from simulate_retinas import make_eye, render_full_field
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


def in_a_disc(image: np.ndarray) -> np.ndarray:
    """An image inside a round field, as a fundus camera would show it."""
    rows, columns = (np.arange(size) - size / 2 for size in image.shape[:2])
    inside = np.hypot(rows[:, np.newaxis], columns) < 0.47 * min(image.shape[:2])
    return image * inside[..., np.newaxis].astype(np.uint8)


def drawn() -> Iterator[tuple[str, np.ndarray]]:
    """A chart, an OCT B-scan, noise, a plain surface."""
    random = np.random.default_rng(0)
    figure = Figure(figsize=(6, 5))
    figure.add_subplot().plot(random.normal(size=(200, 3)).cumsum(axis=0))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    yield "chart", in_colour(np.asarray(canvas.buffer_rgba()))
    row, column = np.linspace(0, 1, 500)[:, np.newaxis], np.linspace(0, 1, 700)
    layers = ((0.4, 0.02, 0.9), (0.45, 0.03, 0.4), (0.5, 0.02, 0.6), (0.56, 0.02, 0.8), (0.6, 0.03, 1))
    scan = sum(a * np.exp(-(((row - y - 0.05 * np.sin(3 * column)) / w) ** 2)) for y, w, a in layers)
    yield "B-scan", in_colour(np.uint8(255 * np.clip(scan * random.rayleigh(0.8, scan.shape), 0, 1)))
    yield "noise", random.integers(0, 256, (600, 600, 3), np.uint8)
    yield "plain surface", np.full((600, 600, 3), (180, 90, 50), np.uint8)


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
    yield "other pictures", "cat in a disc", in_a_disc(in_colour(skimage.data.cat()))
    for name, image in drawn():
        yield "other pictures", name, image
    if photographs is not None:
        for image in pd.read_csv(photographs, dtype=str)["image"]:
            yield "real photographs", Path(image).stem, read_fundus(photographs.parent / image)


def main() -> None:
    """Print a line for each doubtful picture, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--list", type=Path, metavar="LIST.csv")
    args = parser.parse_args()
    predictor, _ = load_predictor(args.run, None, read_run(args.run)[0])
    seen, doubts = Counter(), {}
    for kind, name, fundus in pictures(args.list):
        fov, diameter, predicted, vessels = predicted_photograph(predictor, fundus)
        confidence = assess(fundus, fov, diameter, predicted.probability, vessels)
        seen[kind] += 1
        doubts.setdefault(kind, []).append(confidence.doubts)
        values = ", ".join(f"{value:.3g}" for value in astuple(confidence)[:4])
        print(f"{kind}, {name}: {values}: {confidence}", flush=True)
    print("\n| pictures | usable | doubtful because |\n|---|---|---|")
    for kind, number in seen.items():
        reasons = Counter(doubt for found in doubts[kind] for doubt in found)
        usable = sum(not found for found in doubts[kind])
        named = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        print(f"| {kind} | {usable} of {number} | {named} |")


if __name__ == "__main__":
    main()
