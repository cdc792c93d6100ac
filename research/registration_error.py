"""How well OCT-A displaced by a known field are registered, and right partners distinguished from wrong ones.

    python research/registration_error.py RUN [--pairs 100]

RUN is a run's folder of checkpoints, trained on simulated retinas. The OCT-A of simulated retinas at the scale of
crops, which no run is trained or validated on, are displaced by a smooth field of up to 12 px with a rotation of up to
2 degrees and up to 3 % of scale. The pairs get the faults of real ones: bright, dark and shifted lines in the OCT-A,
and half of every second photograph is black. The error is the distance between the known and the estimated
displacement, at the pixels of vessels of at least 3 px in the field. Each OCT-A is also tested with the next
photograph, a wrong partner.
"""

from common import UNSEEN, new_parser, predictor_of, print_head, print_row

# isort: split
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from alignment.register import (
    NEIGHBOURS,
    REGISTERED,
    UNCHANGED,
    chosen_controls,
    verdict_of,
)
from alignment.registration import enlarged, fit_all, jacobian, reduced, reduced_eye
from alignment.search import Masked
from retina.images import black_outside
from retina.ut_fsocta import CROP_PX
from simulation.eye import TREE_SHARED_BY, border_distance, make_stream_eye
from simulation.fundus import render_fundus
from simulation.octa import render_octa
from simulation.trees import Window

SCALES_OF_CROPS = (66, 105)  # px per mm
BEYOND = 40  # px: margin of the OCT-A around the photograph, which the displacement can move into it
LEAST_FIELD, LEAST_VESSELS = 0.45, 0.03  # shares of pixels; below them there is too little to measure
WIDE = 1.5  # px: radius of the thinnest vessel that counts
LARGEST, DEGREES, SCALE = 12.0, 2.0, 0.03  # of the known field: px, rotation and change of scale
SMOOTHNESS = 60.0  # px: sigma of the Gaussian that smooths it


@dataclass(frozen=True)
class Displaced:
    """A simulated retina whose OCT-A was displaced by a known field; images are (400, 400)."""

    fundus: np.ndarray  # (400, 400, 3), uint8
    octa: np.ndarray  # float on [0, 1]
    fov: np.ndarray  # bool
    vessels: np.ndarray  # bool: in the field
    displacement: np.ndarray  # (2, 400, 400), px: what registration should find


def known_field(random: np.random.Generator) -> np.ndarray:
    """A smooth displacement with a rotation and a scale: (2, 400, 400), px."""
    margin = round(3 * SMOOTHNESS)
    noise = random.standard_normal((2, *2 * [CROP_PX + 2 * margin]))
    smooth = gaussian_filter(noise, (0, SMOOTHNESS, SMOOTHNESS))[:, margin:-margin, margin:-margin]
    smooth *= random.uniform(LARGEST / 2, LARGEST) / np.hypot(*smooth).max()
    angle, scale = np.deg2rad(random.uniform(-DEGREES, DEGREES)), 1 + random.uniform(-SCALE, SCALE)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) - np.eye(2)
    return smooth + np.tensordot(matrix, np.indices((CROP_PX, CROP_PX)) - (CROP_PX - 1) / 2, 1)


def inverse(displacement: np.ndarray) -> np.ndarray:
    """The inverse displacement, by fixed-point iteration."""
    places, back = np.indices(displacement.shape[1:]), np.zeros_like(displacement)
    for _ in range(30):
        back = -np.stack([map_coordinates(part, places + back, order=1, mode="nearest") for part in displacement])
    return back


def add_faults(octa: np.ndarray, random: np.random.Generator) -> None:
    """Add motion lines to an OCT-A (400, 400), [0, 1], in place: too bright, too dark, and shifted."""
    for _ in range(random.integers(2, 7)):
        row, thick = int(random.integers(5, CROP_PX - 5)), int(random.integers(1, 4))
        octa[row : row + thick] *= random.choice([0.3, 1.0])
        octa[row : row + thick] += random.uniform(0, 0.5) * random.random(CROP_PX)
        band = octa[row : row + int(random.integers(3, 20))]
        band[:] = np.roll(band, int(random.integers(-3, 4)), axis=1)


def black_half(random: np.random.Generator) -> np.ndarray:
    """One side of a line near the middle: (400, 400), bool."""
    rows, columns = np.indices((CROP_PX, CROP_PX)) - CROP_PX / 2
    angle = random.uniform(0, 2 * np.pi)
    return np.cos(angle) * rows + np.sin(angle) * columns > random.uniform(-30, 30)


def displaced_retinas(number: int) -> Iterator[Displaced]:
    """That many simulated retinas, each from its own tree."""
    place = UNSEEN
    while number:
        eye, window = make_stream_eye(0, place, CROP_PX)
        random = np.random.default_rng(place)
        place += TREE_SHARED_BY
        fov = border_distance(eye, window) > eye["found_px"]
        if number % 2:
            fov &= ~black_half(random)
        if not SCALES_OF_CROPS[0] <= window.px_per_mm <= SCALES_OF_CROPS[1] or fov.mean() < LEAST_FIELD:
            continue
        pixels = CROP_PX + 2 * BEYOND
        wide = Window(window.centre, window.side_mm * pixels / CROP_PX, pixels)
        trees = eye.vessels(wide)
        both = trees["artery"].merge(trees["vein"])
        vessels = ((both.depth > 0) & (both.radius > WIDE))[BEYOND:-BEYOND, BEYOND:-BEYOND] & fov
        if vessels.mean() < LEAST_VESSELS:
            continue
        back = known_field(random)
        scan = render_octa(eye, wide, trees, eye.rng("scan")) / 255  # [0, 255] -> [0, 1]
        octa = map_coordinates(scan, np.indices(fov.shape) + BEYOND + back, order=1)
        add_faults(octa, random)
        fundus = render_fundus(eye, window, eye.vessels(window), eye.rng("photograph"))
        yield Displaced(black_outside(fundus, fov), octa, fov, vessels, inverse(back))
        number -= 1


def registered(retina: Displaced, eyes: list[Masked]) -> tuple[np.ndarray, float, list[tuple[str, float]]]:
    """Register an OCT-A with the right photograph, a wrong one, and the controls among the others.

    Returns:
        Errors (vessel pixels,), px; the smallest Jacobian; for both photographs the verdict, and by how much each fits
        better than all controls.
    """
    scan = reduced(retina.octa)
    right, wrong, *others = eyes
    first, second, *controls = fit_all(scan, [right, wrong, *chosen_controls(right, others)])
    found = enlarged(first.displacement, retina.fov.shape)
    best = max(fit.after for fit in controls)
    judged = [(verdict_of(fit, controls), fit.after - best) for fit in (first, second)]
    return np.hypot(*(found - retina.displacement))[retina.vessels], float(jacobian(found).min()), judged


def main() -> None:
    """Print the table."""
    parser = new_parser(__doc__)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--weights", metavar="best|last")
    parser.add_argument("--pairs", type=int, default=100, metavar="N")
    args = parser.parse_args()
    if args.pairs < NEIGHBOURS + 2:  # otherwise an eye would be its own control
        parser.error(f"--pairs {args.pairs}: must be at least {NEIGHBOURS + 2}")
    predictor = predictor_of(args.run, args.weights)
    retinas = list(displaced_retinas(args.pairs))
    predicted = (predictor.predict_vessels(one.fundus, one.fov) for one in retinas)
    eyes = [reduced_eye(octa, one.fov) for octa, one in zip(predicted, retinas, strict=True)]
    sets = [[eyes[(first + step) % len(eyes)] for step in range(NEIGHBOURS + 2)] for first in range(len(eyes))]
    jobs = (joblib.delayed(registered)(one, some) for one, some in zip(retinas, sets, strict=True))
    results = joblib.Parallel(os.cpu_count(), max_nbytes=None)(jobs)

    titles = "pairs", "displacement, median", "error, median", "error, 95 %", "worst pair's median", "least Jacobian"
    print_head(*titles, "right partners accepted", "wrong ones")
    halves = {"all": slice(None), "whole photographs": slice(args.pairs % 2, None, 2)}
    halves["half of the photograph black"] = slice(1 - args.pairs % 2, None, 2)
    for name, some in halves.items():
        lay = np.concatenate([np.hypot(*one.displacement)[one.vessels] for one in retinas[some]])
        errors = [errors for errors, _, _ in results[some]]
        pooled = np.concatenate(errors)
        worst = max(map(np.median, errors))
        least = min(least for _, least, _ in results[some])
        values = np.median(lay), np.median(pooled), np.percentile(pooled, 95), worst, least
        both = zip(*(judged for _, _, judged in results[some]), strict=True)  # right partners, wrong ones
        accepted = (sum(verdict in (REGISTERED, UNCHANGED) for verdict, _ in judged) for judged in both)
        print_row(name, [str(len(errors)), *values, *map(str, accepted)])


if __name__ == "__main__":
    main()
