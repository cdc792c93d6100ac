"""How sure the program is of its vessel maps, against what is true.

    python research/confidence.py fit RUN               # the numbers in synthesis/confidence.py, from simulated retinas
    python research/confidence.py pictures RUN          # which simulated photographs and other pictures are usable
    python research/confidence.py photographs RUN --list LIST.csv   # real ones with manual maps, as they are and spoilt

The simulated retinas are from seeds that were used for no run. Each photograph is also blurred, darkened and made
noisy. A simulated manual map differs from the exact vessels as much as the maps of two people differ from each other:
vessels are displaced, wider or narrower, and thin ones are left out (`drawn_by_hand`). The other pictures are made here
(a chart, a B-scan, noise, a plain surface) or come with scikit-image. LIST.csv is that of photographs.py.
"""

from common import list_photographs, new_parser, predicted_photograph, predictor_of, print_head, print_row

# isort: split
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import skimage.data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from retina.field_of_view import FIELD_MM
from retina.images import octa_to_grey, read_fundus, read_image
from retina.vessels import ratio, roc_auc
from run.predict import Predictor
from simulation.dataset import render_full_field
from simulation.eye import TREE_SHARED_BY, make_eye, make_stream_eye
from simulation.stream import simulated_pair
from simulation.trees import Vessels
from synthesis.confidence import SHARPNESS, assess, calibrated, expected_dice, sharpness

FIRST = TREE_SHARED_BY * 4 * 10**8  # in the stream of seed 0: used for nothing else
RETINAS = 64
OF_A_PICTURE = 4000  # pixels to fit with
SEED, SUBJECTS = 11, range(301, 309)
# How two people differ, so that the Dice of their maps is 0.78 at a field of 540 px (DRIVE has 0.788): displacement, and
# difference in width, in mm; and the widths between which half of the people leave a vessel out
DISPLACED_MM, WIDER_MM, LEFT_OUT_MM = 0.012, 0.006, (0.010, 0.030)
WITH_SCIKIT_IMAGE = (
    *("astronaut", "brick", "camera", "cell", "cat", "coffee", "coins", "colorwheel", "grass", "gravel", "horse"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "rocket", "text"),
)


# --- pictures --------------------------------------------------------------------------------------------------------


def spoilt(fundus: np.ndarray, diameter: float, random: np.random.Generator) -> Iterator[tuple[str, np.ndarray]]:
    """A photograph (height, width, 3), uint8, as it is, blurred, darkened and noisy, with the kind of each."""

    def with_noise(image: np.ndarray, deviation: float) -> np.ndarray:
        return np.clip(image + random.normal(0, deviation, image.shape), 0, 255).astype(np.uint8)

    yield "as it is", fundus
    for px in (1.5, 3.0):
        sigma = px * diameter / 1000
        yield f"blurred, {px:g} px at 1000 px", gaussian_filter(fundus, (sigma, sigma, 0))
    yield "darkened to 25 %, with noise", with_noise(0.25 * fundus, 3)
    yield "noise of 20 grey levels", with_noise(fundus, 20)


def drawn_by_hand(vessels: Vessels, px_per_mm: float, random: np.random.Generator) -> np.ndarray:
    """A map (height, width), bool, that somebody might draw of these vessels."""

    def wave(mm: float) -> np.ndarray:
        noise = gaussian_filter(random.standard_normal(vessels.depth.shape), max(2.0, 0.15 * px_per_mm))
        return noise / noise.std() * mm * px_per_mm

    places = np.indices(vessels.depth.shape) + [wave(DISPLACED_MM), wave(DISPLACED_MM)]
    depth, radius = (
        map_coordinates(values, places, order=1, mode="nearest") for values in (vessels.depth, vessels.radius)
    )
    least = random.uniform(*LEFT_OUT_MM) * px_per_mm  # px
    return (depth + random.normal(0, WIDER_MM) * px_per_mm > 0) & (2 * radius + wave(0.003) > least)


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """The Dice of two maps, bool."""
    return ratio(2 * (one & other).sum(), one.sum() + other.sum())


# --- calibration -----------------------------------------------------------------------------------------------------


def fit(predictor: Predictor) -> None:
    """Print the numbers of the calibration, how reliable it is, and how far expected Dice and density are off."""
    people, pictures = [], []
    for number in range(RETINAS):
        eye, window = make_stream_eye(0, FIRST + TREE_SHARED_BY * number, 400)
        fundus, _, _, fov = simulated_pair(0, FIRST + TREE_SHARED_BY * number)
        vessels, random = eye.vessels(window), np.random.default_rng(number)
        vessels = vessels["artery"].merge(vessels["vein"])
        diameter = window.px_per_mm * FIELD_MM
        two = [drawn_by_hand(vessels, window.px_per_mm, random) & fov for _ in range(2)]
        people.append(dice_of(*two))
        for kind, image in spoilt(fundus, diameter, random):
            probability = predictor.predict_photograph(image, fov, diameter).probability
            found = predictor.map_of(probability, fov)
            pictures.append((kind, number, probability[fov], found[fov], two[0][fov], sharpness(image, fov, diameter)))
    print(f"Dice of two simulated people: {np.nanmean(people):.3f}")
    random, chosen = np.random.default_rng(0), [random_part(picture) for picture in pictures]
    level = np.array([np.log(np.clip(picture[-1], *SHARPNESS)) for picture in pictures])
    inputs, labels = [], []
    for picture, value in zip(pictures, level, strict=True):
        part = random.integers(0, picture[2].size, OF_A_PICTURE)
        z = logit(np.clip(picture[2][part].astype(float), 1e-4, 1 - 1e-4))
        inputs.append(np.column_stack([np.ones_like(z), value * np.ones_like(z), z, value * z]))
        labels.append(picture[4][part])
    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(np.concatenate(inputs), np.concatenate(labels))
    offset, offset_level, slope, slope_level = model.coef_[0]
    print(f"OFFSET = {offset:.3f}, {offset_level:.3f}\nSLOPE = {slope:.3f}, {slope_level:.3f}")
