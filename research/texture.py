"""How similar predicted and real OCT-A are between the large vessels: by numbers, to a classifier, and to a person.

    python research/texture.py real --pairs DIR
    python research/texture.py measures RUN... --pairs DIR
    python research/texture.py classifier RUN...
    python research/texture.py fovea RUN...
    python research/texture.py sheet RUN --output SHEET.png [--pairs DIR]

`real` compares every two OCT-A of the pairs, which shows how similar two real ones are, and compares simulated retinas
with them. `measures` compares each pair's prediction with its OCT-A. `classifier` trains a small network from scratch
to distinguish patches of predictions from patches of simulated retinas' own OCT-A, and prints its accuracy on other
eyes: 0.5 means that it finds no difference. `sheet` draws twelve patches, real or predicted, in random order, and
writes the key to SHEET_key.csv; the real ones come from the pairs or, without pairs, from simulated retinas.
"""

from common import new_parser, predictor_of, print_head, print_row, real_pairs

# isort: split
import csv
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path

import keras
import numpy as np
from PIL import Image
from scipy.ndimage import distance_transform_edt
from scipy.stats import wasserstein_distance

from retina.images import octa_to_grey, to_uint8
from retina.similarity import checkerboard, ground_of, octave_powers, vessel_agreement
from retina.ut_fsocta import CROP_MM, CROP_PX
from retina.vessels import from_middle, ratio, smooth
from run.predict import Predictor
from simulation.eye import TREE_SHARED_BY, make_stream_eye
from simulation.stream import simulated_pair

EYES = 160  # simulated retinas for the classifier; it is tested on the last quarter
FIRST = TREE_SHARED_BY * 2 * 10**8  # in the stream of seed 0: used neither for training nor for validation
FOVEAS = 30  # simulated retinas that show the fovea
SIDE = 64  # of a patch, px
BACKGROUND = 0.85  # minimum share of a patch that lies between vessels
OF_AN_EYE = 12  # most patches per eye
CROP_SCALE = (75, 105)  # px per mm: simulated retinas at the scale of disc crops
MM_PER_PX = CROP_MM["disc"] / CROP_PX
GRAIN_RING = (1.0, 2.1)  # mm from the middle of a disc crop: outside the disc, inside the crop
Octa = tuple[np.ndarray, np.ndarray]  # (height, width), float on [0, 1], and what lies between the vessels, bool


def real_octas(pairs: Path) -> Iterator[tuple[str, np.ndarray, np.ndarray, Octa]]:
    """Name, photograph, field and OCT-A of each pair of a data set."""
    for name, fundus, octa, fov in real_pairs(pairs):
        yield name, fundus, fov, (octa, ground_of(octa, fov))


def simulated_octas(number: int) -> Iterator[Octa]:
    """OCT-A of simulated retinas at the scale of disc crops."""
    first = FIRST
    while number:
        window = make_stream_eye(0, first, CROP_PX)[1]
        if CROP_SCALE[0] <= window.px_per_mm <= CROP_SCALE[1]:
            _, octa, _, fov = simulated_pair(0, first)
            octa = octa_to_grey(octa / 255)
            yield octa, ground_of(octa, fov)
            number -= 1
        first += TREE_SHARED_BY


def compared(one: Octa, other: Octa) -> list[float]:
    """The values of COMPARED; power in each octave and standard deviation are relative to the other image."""
    shares = octave_powers(*one) / octave_powers(*other)
    values, others = one[0][one[1]], other[0][other[1]]
    distance = wasserstein_distance(values, others)
    return [*shares, np.mean(abs(np.log2(shares))), values.std() / others.std(), distance]


COMPARED = ("0.5-1 px", "1-2 px", "2-4 px", "4-8 px", "texture", "standard deviation", "grey levels")


def grain(octa: np.ndarray, ground: np.ndarray) -> float:
    """How much the speckle around the disc follows the nerve fibres, in an OCT-A with the disc near its middle.

    There the fibres run radially. Of the gradient's power in the ring GRAIN_RING, the share across the fibres minus
    the share along them: 1 for streaks along them, -1 for streaks across, 0 for speckle without a direction. It is the
    coherence of the structure tensor (Bigun and Granlund, ICCV 1987) in a known direction.
    """
    right, up = from_middle(octa.shape)
    away = np.hypot(right, up)
    inside = distance_transform_edt(ground) > 2  # where smoothing and differences see no vessel
    ring = inside & (away * MM_PER_PX >= GRAIN_RING[0]) & (away * MM_PER_PX <= GRAIN_RING[1])
    down, across = np.gradient(smooth(octa, ground, 1.0))
    radial = ((across * right - down * up) / np.maximum(away, 1))[ring]
    total = (down**2 + across**2)[ring].sum()
    return 1 - 2 * ratio((radial**2).sum(), total)


def compare_real(pairs: Path) -> None:
    """Print how similar real OCT-A are to each other, and simulated retinas to them."""
    real = {name: octa for name, _, _, octa in real_octas(pairs)}
    print_head(*COMPARED, "grain")
    for one, other in combinations(real, 2):
        print_row(f"{one} / {other}", [*compared(real[one], real[other]), grain(*real[one])])
    values = [
        [*np.mean([compared(octa, other) for other in real.values()], axis=0), grain(*octa)]
        for octa in simulated_octas(20)
    ]
    for share in (10, 50, 90):
        print_row(f"20 simulated retinas / the real ones, {share} %", np.nanpercentile(values, share, axis=0))


def measure(run: Path, predictor: Predictor, pairs: Path) -> None:
    """Print how similar each pair's prediction is to its OCT-A."""
    values = []
    for name, fundus, fov, real in real_octas(pairs):
        predicted = predictor.predict_photograph(fundus, fov, None)
        octa = octa_to_grey(predicted.octa)
        background = ground_of(octa, fov)
        auc = vessel_agreement(real[0], predicted.probability, fov)["vessel_auc"]
        grains = grain(octa, background), grain(*real)
        values.append([*compared((octa, background), real), *grains, checkerboard(octa, fov), auc])
        print_row(f"{run.name}, {name}", values[-1])
    print_row(f"{run.name}, mean", np.mean(values, axis=0))


def patches_of(octa: np.ndarray, background: np.ndarray, random: np.random.Generator) -> list[np.ndarray]:
    """Random patches (64, 64) of an OCT-A that lie between vessels."""
    corners = random.integers(0, CROP_PX - SIDE + 1, (200, 2))
    places = [(slice(top, top + SIDE), slice(left, left + SIDE)) for top, left in corners]
    return [octa[place] for place in places if background[place].mean() >= BACKGROUND][:OF_AN_EYE]


def simulated_patches(predictor: Predictor, number: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Patches of one simulated retina: of its own OCT-A, and of the prediction, at other positions."""
    random = np.random.default_rng(number)
    fundus, octa, _, fov = simulated_pair(0, FIRST + TREE_SHARED_BY * number)
    own, predicted = (octa_to_grey(image) for image in (octa / 255, predictor.predict(fundus, fov)))
    return patches_of(own, ground_of(own, fov), random), patches_of(predicted, ground_of(predicted, fov), random)


def accuracy_of_classifier(predictor: Predictor) -> float:
    """Accuracy of a network trained to distinguish predicted from own patches, on eyes that it was not trained on."""
    images, labels, eyes = [], [], []
    for number in range(EYES):
        own, predicted = simulated_patches(predictor, number)
        few = min(len(own), len(predicted))  # equal numbers, so that guessing is right half of the time
        images += own[:few] + predicted[:few]
        labels += [0] * few + [1] * few
        eyes += [number] * 2 * few
    images, labels = np.array(images, np.float32)[..., np.newaxis], np.array(labels, np.float32)
    tested = np.array(eyes) >= EYES * 3 // 4
    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy("float32")
    layers = [keras.Input((SIDE, SIDE, 1)), keras.layers.RandomFlip(), keras.layers.Rescaling(4, -1)]
    for filters in (16, 32, 64):
        layers += [
            keras.layers.Conv2D(filters, 3, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.MaxPooling2D(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.3), keras.layers.Dense(1)]
    classifier = keras.Sequential(layers)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    classifier.compile(keras.optimizers.Adam(1e-3), loss)
    classifier.fit(images[~tested], labels[~tested], 32, epochs=12, verbose=0)
    found = classifier.predict(images[tested], verbose=0)[:, 0] > 0
    return float(np.mean(found == (labels[tested] > 0.5)))


def foveas(predictor: Predictor) -> tuple[float, float, float]:
    """How dark the avascular zone is, in simulated OCT-A that show it and in their predictions, and r of both.

    It is 1 - mean brightness inside the true zone / that of a ring around it, each without the inner or outer edge.
    """
    values, number = [], 0
    while len(values) < FOVEAS:
        number += 1
        eye, window = make_stream_eye(0, FIRST + TREE_SHARED_BY * number, CROP_PX)
        away = abs(window.points()) / eye.faz_radius  # the fovea is at 0
        inside, ring = away < 0.8, (away > 1.3) & (away < 2.5)
        fundus, octa, _, fov = simulated_pair(0, FIRST + TREE_SHARED_BY * number)
        if inside.sum() > 50 and ((inside | ring) & ~fov).sum() == 0 and abs(window.centre) < 0.4 * window.side_mm:
            images = octa_to_grey(octa / 255), octa_to_grey(predictor.predict(fundus, fov))
            values.append([1 - image[inside].mean() / image[ring].mean() for image in images])
    truth, predicted = np.transpose(values)
    return truth.mean(), predicted.mean(), np.corrcoef(truth, predicted)[0, 1]


def draw_sheet(predictor: Predictor, pairs: Path | None, output: Path) -> None:
    """Draw twelve patches of 64 px, enlarged three times, in random order, and write the key."""
    own, predicted = [], []
    random = np.random.default_rng()
    if pairs is None:
        for number in range(EYES, EYES + 20):
            kinds = simulated_patches(predictor, number)
            own, predicted = own + kinds[0][:2], predicted + kinds[1][:2]
    else:
        for _, fundus, fov, real in real_octas(pairs):
            octa = octa_to_grey(predictor.predict(fundus, fov))
            own += patches_of(*real, random)
            predicted += patches_of(octa, ground_of(octa, fov), random)
    share = random.integers(4, 9)
    chosen = [(own[place], "real") for place in random.choice(len(own), share, replace=False)]
    chosen += [(predicted[place], "predicted") for place in random.choice(len(predicted), 12 - share, replace=False)]
    order = random.permutation(12)
    tiles = [np.pad(chosen[place][0].repeat(3, 0).repeat(3, 1), 6, constant_values=1) for place in order]
    sheet = np.vstack([np.hstack(tiles[first : first + 4]) for first in (0, 4, 8)])
    Image.fromarray(to_uint8(sheet)).save(output)
    with open(output.with_name(f"{output.stem}_key.csv"), "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("patch", "kind"), *((n + 1, chosen[place][1]) for n, place in enumerate(order))])


def main() -> None:
    """Print the tables, or draw the sheet, that the command line asks for."""
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=("real", "measures", "classifier", "fovea", "sheet"))
    parser.add_argument("runs", nargs="*", type=Path, metavar="RUN")
    parser.add_argument("--pairs", type=Path, metavar="DIR")
    parser.add_argument("--weights", metavar="best|last")
    parser.add_argument("--output", type=Path, metavar="SHEET.png")
    args = parser.parse_args()
    if args.what == "real":
        return compare_real(args.pairs)
    if args.what == "measures":
        print_head(*COMPARED, "grain", "real grain", "checkerboard", "vessel AUC")
    for run in args.runs:
        predictor = predictor_of(run, args.weights)
        if args.what == "measures":
            measure(run, predictor, args.pairs)
        elif args.what == "sheet":
            draw_sheet(predictor, args.pairs, args.output)
        elif args.what == "fovea":
            print_head("darkness of the zone", "in predictions", "r")
            print_row(run.name, foveas(predictor))
        else:
            print_head("accuracy of the classifier")
            print_row(run.name, [accuracy_of_classifier(predictor)])


if __name__ == "__main__":
    main()
