"""How sure the program is of its vessel maps, against what is true.

    python research/confidence.py fit RUN                     # the numbers in synthesis/confidence.py
    python research/confidence.py check RUN [--list LIST.csv] # expected Dice and density, and the true ones
    python research/confidence.py pictures RUN [--list LIST.csv]  # which pictures are usable

`fit` and `check` use different simulated retinas, which no run is trained on; each photograph is also blurred, darkened
and made noisy. With --list, `check` uses real photographs with manual maps instead, spoilt in the same ways. The manual
map of a simulated retina differs from its exact vessels as the maps of two people differ: vessels are displaced, wider
or narrower, and some are left out, because they are thin (`drawn_by_hand`) or faint (`seen_vessels`). The other
pictures are made here (a chart, a B-scan, noise, a plain surface) or come with scikit-image. LIST.csv is that of
photographs.py.
"""

from common import list_photographs, new_parser, predictor_of, print_head, print_row

# isort: split
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import skimage.data
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from scipy.ndimage import gaussian_filter, map_coordinates
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from retina.field_of_view import FIELD_MM, find_field
from retina.images import octa_to_grey, read_fundus, read_image
from retina.ut_fsocta import CROP_PX
from retina.vessels import ratio, roc_auc
from run.predict import Predictor
from simulation.dataset import render_full_field
from simulation.eye import TREE_SHARED_BY, make_eye, make_stream_eye
from simulation.fundus import light_lost
from simulation.stream import seen_vessels, simulated_pair
from simulation.trees import Vessels
from synthesis import Synthesiser
from synthesis.confidence import (
    PROBABILITY,
    SCALES_PX_PER_MM,
    SHARPNESS,
    USUAL_PX_PER_MM,
    calibrated,
    expected_dice,
    sharpness,
)

FIRST = {"fit": TREE_SHARED_BY * 4 * 10**8, "check": TREE_SHARED_BY * 5 * 10**8}  # in the stream of seed 0
RETINAS = 48
OF_A_PICTURE = 4000  # pixels to fit with
SEED, SUBJECTS = 11, range(301, 309)
# How two people differ, so that the Dice of their maps is 0.78 (DRIVE 0.788, CHASE_DB1 0.768): displacement, spread of
# the width, and the widths between which somebody begins to draw, in mm
PEN_PX = 2  # no vessel is drawn with a thinner line, in pixels of the photograph
DISPLACED_MM, WIDER_MM, BEGIN_MM = 0.008, 0.003, (0.010, 0.024)
WITH_SCIKIT_IMAGE = (
    *("astronaut", "brick", "camera", "cell", "cat", "coffee", "coins", "colorwheel", "grass", "gravel", "horse"),
    *("hubble_deep_field", "immunohistochemistry", "moon", "page", "rocket", "text"),
)


class Picture(NamedTuple):
    """A photograph's prediction and what somebody drew, at the pixels of its field, each (pixels,)."""

    kind: str  # how the photograph was spoilt
    probability: np.ndarray  # of a vessel, float16 on [0, 1]
    vessels: np.ndarray  # the map, bool
    drawn: np.ndarray  # the manual map, bool
    sharp: float
    px_per_mm: float


# --- photographs and what somebody draws -----------------------------------------------------------------------------


def spoilt(fundus: np.ndarray, diameter: float) -> Iterator[tuple[str, np.ndarray]]:
    """A photograph (height, width, 3), uint8, as it is, blurred, darkened and noisy, with the kind of each."""
    random = np.random.default_rng(0)

    def with_noise(image: np.ndarray, deviation: float) -> np.ndarray:
        return np.clip(image + random.normal(0, deviation, image.shape), 0, 255).astype(np.uint8)

    yield "as it is", fundus
    for px in (1.5, 3.0):
        sigma = px * diameter / 1000
        yield f"blurred, {px:g} px at a field of 1000 px", gaussian_filter(fundus, (sigma, sigma, 0))
    yield "darkened to 25 %, noise of 3 grey levels", with_noise(0.25 * fundus, 3)
    yield "noise of 20 grey levels", with_noise(fundus, 20)


def drawn_by_hand(vessels: Vessels, px_per_mm: float, random: np.random.Generator) -> np.ndarray:
    """A map (height, width), bool, that somebody might draw of these vessels."""

    def wave(mm: float) -> np.ndarray:
        noise = gaussian_filter(random.standard_normal(vessels.depth.shape), max(2.0, 0.15 * px_per_mm))
        return noise / noise.std() * mm * px_per_mm

    places = np.indices(vessels.depth.shape) + np.stack([wave(DISPLACED_MM), wave(DISPLACED_MM)])
    both = vessels.depth, vessels.radius
    depth, radius = (map_coordinates(values, places, order=1, mode="nearest") for values in both)
    begin = random.uniform(*BEGIN_MM) * px_per_mm + wave(0.003)  # px
    wider = random.normal(0, WIDER_MM) * px_per_mm + np.maximum(PEN_PX / 2 - radius, 0) * (radius > 0)
    return (depth + wider > 0) & (2 * radius > begin)


def simulated(predictor: Predictor, first: int) -> list[Picture]:
    """Simulated retinas from a number on; prints how similar the maps of two people are."""
    people, pictures = [], []
    for number in range(first, first + TREE_SHARED_BY * RETINAS, TREE_SHARED_BY):
        eye, window = make_stream_eye(0, number, CROP_PX)
        fundus, _, _, fov = simulated_pair(0, number)
        trees, random, scale = eye.vessels(window), np.random.default_rng(number), window.px_per_mm
        seen = seen_vessels(eye, fundus, light_lost(eye, trees, window))
        both = trees["artery"].merge(trees["vein"])
        drawn, other = (drawn_by_hand(both, scale, random) & (seen > random.random()) & fov for _ in range(2))
        people.append(dice_of(drawn, other))
        pictures += pictures_of(predictor, fundus, fov, scale * FIELD_MM, drawn, fov)
    print(f"Dice of the maps that two simulated people draw: {np.nanmean(people):.3f}\n")
    return pictures


def real(predictor: Predictor, table: Path) -> list[Picture]:
    """Photographs with manual maps."""
    pictures = []
    for row in list_photographs(table).itertuples():
        fundus, drawn = read_fundus(row.image), octa_to_grey(read_image(row.manual)) > 127
        field = find_field(fundus)
        counts = field.mask if row.mask is None else field.mask & (octa_to_grey(read_image(row.mask)) > 127)
        pictures += pictures_of(predictor, fundus, field.mask, field.diameter(), drawn, counts)
    return pictures


def pictures_of(
    predictor: Predictor, fundus: np.ndarray, fov: np.ndarray, diameter: float, drawn: np.ndarray, counts: np.ndarray
) -> Iterator[Picture]:
    """A photograph, as it is and spoilt; pixels where `counts` is True."""
    for kind, image in spoilt(fundus, diameter):
        image = image * fov[..., np.newaxis].astype(np.uint8)
        probability = predictor.predict_photograph(image, fov, diameter).probability
        vessels = predictor.map_of(probability, fov)
        facts = sharpness(image, fov, diameter), diameter / FIELD_MM
        yield Picture(kind, probability[counts].astype(np.float16), vessels[counts], drawn[counts], *facts)


def dice_of(one: np.ndarray, other: np.ndarray) -> float:
    """The Dice of two maps, bool."""
    return ratio(2 * (one & other).sum(), one.sum() + other.sum())


# --- calibration -----------------------------------------------------------------------------------------------------


def fit(pictures: Sequence[Picture]) -> None:
    """Print the numbers of the calibration."""
    random, inputs, labels = np.random.default_rng(0), [], []
    for picture in pictures:
        part = random.integers(0, picture.drawn.size, OF_A_PICTURE)
        z = logit(np.clip(picture.probability[part].astype(float), *PROBABILITY))
        scale = np.clip(picture.px_per_mm, *SCALES_PX_PER_MM)
        facts = 1.0, np.log(np.clip(picture.sharp, *SHARPNESS)), np.log(scale / USUAL_PX_PER_MM)
        inputs.append(np.hstack([np.tile(facts, (len(z), 1)), np.outer(z, facts)]))
        labels.append(picture.drawn[part])
    model = LogisticRegression(C=np.inf, fit_intercept=False).fit(np.concatenate(inputs), np.concatenate(labels))
    for name, values in zip(("OFFSET", "SLOPE"), np.split(model.coef_[0], 2), strict=True):
        print(f"{name} = {', '.join(f'{value:.3f}' for value in values)}")
    sharp = np.median([picture.sharp for picture in pictures])
    offset, slope = (np.dot(values, (1.0, np.log(sharp), 0.0)) for values in np.split(model.coef_[0], 2))
    print(
        f"DRAWN_FROM = {expit(-offset / slope):.2f} at {USUAL_PX_PER_MM:g} px per mm and a sharpness of {sharp:.1f} %"
    )


def check(pictures: Sequence[Picture]) -> None:
    """Print expected and true Dice and density by kind, and how reliable the calibrated probability is."""
    sure = [calibrated(one.probability.astype(float), one.sharp, one.px_per_mm) for one in pictures]
    expected = [expected_dice(one, picture.vessels) for one, picture in zip(sure, pictures, strict=True)]
    true = [dice_of(picture.vessels, picture.drawn) for picture in pictures]
    density = [ratio(one.mean(), picture.drawn.mean()) for one, picture in zip(sure, pictures, strict=True)]
    numbers = np.array([expected, true, density])
    known = np.isfinite(numbers[1])  # a retina whose vessels nobody sees has no Dice
    numbers, kinds = numbers[:, known], np.array([picture.kind for picture in pictures])[known]
    wrong = [roc_auc(p.vessels != p.drawn, -np.where(p.vessels, q, 1 - q)) for p, q in zip(pictures, sure, strict=True)]
    numbers = np.vstack([numbers, np.array(wrong)[known]])
    titles = "number", "expected Dice", "true", "r", "mean error", "9 of 10 within"
    print_head(*titles, "density, expected / true: 5, 50, 95 %", "9 of 10 within a factor of", "wrong pixels told: AUC")
    for kind in (*dict.fromkeys(kinds), "all"):
        one, other, densities, told = numbers[:, (kinds == kind) | (kind == "all")]
        error, factor = abs(one - other), np.exp(np.nanpercentile(abs(np.log(densities)), 90))
        values = [one.mean(), other.mean(), np.corrcoef(one, other)[0, 1], error.mean(), np.percentile(error, 90)]
        spread = ", ".join(f"{value:.2f}" for value in np.nanpercentile(densities, (5, 50, 95)))
        print_row(kind, [str(len(one)), *values, spread, factor, np.nanmean(told)])
    print()
    print_head("calibrated probability", "share drawn", "share of the pixels")
    sure, drawn = np.concatenate(sure), np.concatenate([picture.drawn for picture in pictures])
    bins, error = np.minimum((10 * sure).astype(int), 9), 0.0
    for number in np.unique(bins):
        inside = bins == number
        values = sure[inside].mean(), drawn[inside].mean(), inside.mean()
        error += values[2] * abs(values[0] - values[1])
        print_row(f"{number / 10:.1f} to {(number + 1) / 10:.1f}", values)
    print(f"\nExpected calibration error: {error:.4f}")


# --- usable and doubtful pictures ------------------------------------------------------------------------------------


def in_colour(image: np.ndarray) -> np.ndarray:
    """An image of any kind as (height, width, 3), uint8."""
    image = np.uint8(image * 255) if image.dtype == bool else image
    return np.ascontiguousarray(image[..., :3] if image.ndim == 3 else image[..., np.newaxis].repeat(3, -1))


def pictures_to_judge(photographs: Path | None) -> Iterator[tuple[str, str, np.ndarray]]:
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


def judge(synthesiser: Synthesiser, photographs: Path | None) -> None:
    """Print a line for each picture, then the table."""
    doubts: dict[str, list[tuple[str, ...]]] = {}
    for kind, name, fundus in pictures_to_judge(photographs):
        confidence = synthesiser.photograph(fundus).confidence
        doubts.setdefault(kind, []).append(confidence.doubts)
        values = f"expected Dice {confidence.dice[0]:.2f}, sharpness {confidence.sharpness:.2f}"
        print(f"{kind}, {name}: {values}: {confidence}", flush=True)
    print("\n| pictures | usable | doubtful because |\n|---|---|---|")
    for kind, found in doubts.items():
        reasons = Counter(doubt for of_picture in found for doubt in of_picture)
        named = ", ".join(f"{reason} ({count})" for reason, count in reasons.most_common())
        print(f"| {kind} | {sum(not of_picture for of_picture in found)} of {len(found)} | {named} |")


def main() -> None:
    """Print what the command line asks for."""
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=("fit", "check", "pictures"))
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--list", type=Path, metavar="LIST.csv")
    args = parser.parse_args()
    if args.what == "pictures":
        return judge(Synthesiser(args.run), args.list)
    predictor = predictor_of(args.run)
    pictures = real(predictor, args.list) if args.list else simulated(predictor, FIRST[args.what])
    (fit if args.what == "fit" else check)(pictures)


if __name__ == "__main__":
    main()
