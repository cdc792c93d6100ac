"""The pictures in README and docs, drawn from sample retinas that no run trains on.

    python tests/benchmarks/pictures.py RUN [--output docs]

Writes whole_sample.jpg (a whole photograph, its OCT-A, its vessel map) and failures.jpg (of EYES retinas of the stream,
those in which the vessel map invents and misses most).
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pix_command import load_tensorflow

load_tensorflow()

import numpy as np
from matplotlib.figure import Figure

from camera_field import find_field
from dataset_load_mod import black_outside, octa_to_grey
from phantom.dataset import TRUTH_MIN_WIDTH_MM
from phantom.eye import TREE_SHARED_BY, make_stream_eye
from phantom.stream import sample_pair
from phantom_retina import make_eye, render_full_field
from pix_predict import Prediction, Predictor, load_predictor
from pix_run import read_run
from ut_fsocta import CROP_PX
from vessel_metrics import map_vessels

SUBJECT, SEED = 101, 7  # of the whole photograph: in no sample set that the program writes by itself
FIRST = TREE_SHARED_BY * 3 * 10**8  # in the stream of seed 0: neither trained on nor validated on
EYES = 48  # of the stream, each from a tree of its own
FAILURES = 2  # shown of each kind
MISSED, INVENTED = (230, 159, 0), (86, 180, 233)  # Okabe and Ito's orange and sky blue
JPEG = {"quality": 88}


def draw(rows: list[list[np.ndarray]], titles: list[str], names: list[str], path: Path) -> None:
    """Images (height, width) or (height, width, 3) in rows, with titles above and names beside them."""
    figure = Figure(figsize=(3.6 * len(titles), 3.6 * len(rows) + 0.3), dpi=100, layout="constrained")
    for row, (images, name) in enumerate(zip(rows, names, strict=True)):
        for column, image in enumerate(images):
            panel = figure.add_subplot(len(rows), len(titles), row * len(titles) + column + 1)
            panel.imshow(image, cmap="gray", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[], title="" if row else titles[column], ylabel="" if column else name)
    figure.savefig(path, pil_kwargs=JPEG)


def coloured(image: np.ndarray, *layers: tuple[np.ndarray, tuple[int, int, int]]) -> np.ndarray:
    """An image (height, width, 3), uint8, with pixels (height, width), bool, in a colour each."""
    image = image.copy()
    for pixels, colour in layers:
        image[pixels] = colour
    return image


def predicted_photograph(
    predictor: Predictor, fundus: np.ndarray
) -> tuple[np.ndarray, float | None, Prediction, np.ndarray]:
    """A photograph's field, its diameter in px if it is seen, the prediction, and the vessel map."""
    field = find_field(fundus)
    diameter = None if field.radius is None else 2 * field.radius
    predicted = predictor.predict_photograph(fundus, field.mask, diameter)
    return field.mask, diameter, predicted, map_vessels(predicted.probability, field.mask, None, diameter)[0]


def draw_whole_sample(predictor: Predictor, path: Path) -> None:
    """A whole photograph, its OCT-A, and the vessels over the photograph."""
    fundus = render_full_field(make_eye(SUBJECT, "OD", SEED))
    _, _, predicted, vessels = predicted_photograph(predictor, fundus)
    images = [fundus, octa_to_grey(predicted.octa), coloured(fundus, (vessels, INVENTED))]
    draw([images], ["Photograph (sample retina)", "Synthetic OCT-A", "Vessel map"], [""], path)


def draw_failures(predictor: Predictor, path: Path) -> None:
    """The eyes with the largest shares of invented vessels and of missed ones."""
    found = []
    for number in range(FIRST, FIRST + EYES * TREE_SHARED_BY, TREE_SHARED_BY):
        eye, window = make_stream_eye(0, number, CROP_PX)
        fundus, octa, fov = sample_pair(0, number)
        wide = eye.vessels(window, TRUTH_MIN_WIDTH_MM)
        truth = (wide["artery"].merge(wide["vein"]).depth > 0) & fov
        probability = predictor.predict_photograph(fundus, fov, None).probability
        vessels = map_vessels(probability, fov, "disc", None)[0] & fov
        missed, invented = truth & ~vessels, vessels & ~truth
        errors = coloured((0.6 * fundus).astype(np.uint8), (missed, MISSED), (invented, INVENTED))
        images = [black_outside(fundus, fov), octa_to_grey(octa / 255), probability, errors]
        found.append((invented.sum() / fov.sum(), missed.sum() / fov.sum(), images))
    chosen = [
        (f"{kind} {eye[column]:.0%} of the field", eye[2])
        for column, kind in enumerate(("invents", "misses"))
        for eye in sorted(found, key=lambda eye: -eye[column])[:FAILURES]
    ]
    titles = ["Photograph (sample retina)", "Its OCT-A", "Vessel probability", "Missed (orange), invented (blue)"]
    draw([images for _, images in chosen], titles, [name for name, _ in chosen], path)


def main() -> None:
    """Draw both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--output", type=Path, default=Path("docs"), metavar="DIR")
    args = parser.parse_args()
    predictor, _ = load_predictor(args.run, None, read_run(args.run)[0])
    draw_whole_sample(predictor, args.output / "whole_sample.jpg")
    draw_failures(predictor, args.output / "failures.jpg")


if __name__ == "__main__":
    main()
