"""How well the position of an OCT-A in its photograph is found: simulated retinas, and photographs with manual maps.

    python research/places.py RUN [--photographs LIST.csv]

Each OCT-A is cropped, rotated by up to 8 degrees, and searched for at a scale that is up to 15 % off. For a photograph,
five OCT-A of 6 mm are made from its manual vessel map, with speckle. LIST.csv is as for `photographs.py`. Prints how
many positions are right, how far off they are, and how many the program accepts; also how many wrong positions and how
many wrong partners (the OCT-A of the next eye) it accepts.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from basics.command_line import load_tensorflow

load_tensorflow()

import numpy as np
import pandas as pd
from PIL import Image
from scipy.ndimage import map_coordinates
from simulated_retinas import header, table_row

from alignment.find_octa import Photograph, find_place
from retina.field_of_view import FIELD_MM, field_to_use
from retina.images import octa_to_grey, read_fundus, read_image
from retina.ut_fsocta import CROP_MM, CROP_PX
from run.checkpoints import read_run
from run.predict import Predictor, load_predictor
from simulation.dataset import eye_of, render_crop, render_full_field
from simulation.eye import crop_window, make_eye

SUBJECTS = range(31, 51)
MACULA_MM = 3.0
KINDS = ("disc", "macula", f"macula, {MACULA_MM:g} mm")  # of simulated retinas
PLACES = 5  # per photograph
DEGREES, SCALE = 8.0, 0.15  # at most
NEAR_MM = 0.25  # largest error of a right position; registration can correct that much
SCAN_MM, SCAN_PX = 6.0, 400
COLUMNS = ("OCT-A", "right position", "median error, mm", "found", "found, but wrong", "wrong partners found")


class Case(NamedTuple):
    """An OCT-A, and the vessels predicted for its photograph."""

    octa: np.ndarray
    side_mm: float
    photograph: Photograph
    centre: np.ndarray  # true, px of the photograph
    px_per_mm: float  # true


def prepared(predictor: Predictor, fundus: np.ndarray, random: np.random.Generator) -> tuple[Photograph, float]:
    """The vessels predicted for a photograph, with a scale that is off; and its own scale, px per mm."""
    field = field_to_use(fundus, fov_mask=True)
    diameter = field.diameter()
    probability = predictor.vessel_probability(fundus, field.mask, diameter, fast=True)
    px_per_mm = diameter / FIELD_MM
    return Photograph(probability, field.mask, px_per_mm * random.uniform(1 - SCALE, 1 + SCALE)), px_per_mm


def simulated_cases(predictor: Predictor, random: np.random.Generator) -> Iterator[Case]:
    """Disc and macula of some simulated retinas, the macula also cropped to MACULA_MM."""
    for subject in SUBJECTS:
        eye = make_eye(subject, eye_of(subject), 0)
        fundus = render_full_field(eye)
        photograph, _ = prepared(predictor, fundus, random)
        px_per_mm = len(fundus) / FIELD_MM
        for kind in KINDS:
            region = kind.partition(",")[0]
            octa = octa_to_grey(render_crop(eye, region)["octa"]) / 255  # [0, 255] -> [0, 1]
            turned = Image.fromarray(octa.astype(np.float32)).rotate(random.uniform(-DEGREES, DEGREES))
            border = int(random.integers(20, 90))
            if region != kind:
                border = round(CROP_PX / 2 * (1 - MACULA_MM / CROP_MM[region]))
            octa = np.asarray(turned)[border:-border, border:-border]
            offset = (crop_window(eye, region).centre - eye.field.centre) * px_per_mm
            centre = (len(fundus) - 1) / 2 + np.array([offset.imag, offset.real])
            yield Case(octa, CROP_MM[region] * octa.shape[1] / CROP_PX, photograph, centre, px_per_mm)


def photograph_cases(predictor: Predictor, table: Path, random: np.random.Generator) -> Iterator[Case]:
    """OCT-A made from the manual maps of photographs, at several positions."""
    for row in pd.read_csv(table, dtype=str).itertuples():
        fundus = read_fundus(table.parent / row.image)
        manual = octa_to_grey(read_image(table.parent / row.manual)) / 255  # [0, 255] -> [0, 1]
        field = field_to_use(fundus, fov_mask=True)
        photograph, px_per_mm = prepared(predictor, fundus, random)
        for _ in range(PLACES):
            angle, away = np.deg2rad(random.uniform(-DEGREES, DEGREES)), random.uniform(0, 2 * np.pi)
            distance = random.uniform(0, 0.6) * field.radii[0]
            centre = np.array(field.centre) + distance * np.array([np.sin(away), np.cos(away)])
            turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
            here = (np.indices((SCAN_PX, SCAN_PX)) - (SCAN_PX - 1) / 2) * SCAN_MM / SCAN_PX * px_per_mm
            vessels = map_coordinates(manual, np.tensordot(turn, here, 1) + centre[:, np.newaxis, np.newaxis], order=1)
            speckle = random.gamma(2.0, 0.15, vessels.shape)
            yield Case(np.clip(0.6 * vessels + speckle, 0, 1), SCAN_MM, photograph, centre, px_per_mm)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--photographs", type=Path, metavar="LIST.csv")
    args = parser.parse_args()
    predictor, random = load_predictor(args.run, None, read_run(args.run)[0])[0], np.random.default_rng(0)
    samples = list(simulated_cases(predictor, random))
    cases = {kind: samples[number :: len(KINDS)] for number, kind in enumerate(KINDS)}
    if args.photographs:
        cases["photographs"] = list(photograph_cases(predictor, args.photographs, random))
    print(header(COLUMNS))
    for name, some in cases.items():
        step = PLACES if name == "photographs" else 1  # from one eye to the next
        places = [find_place(case.octa, case.side_mm, case.photograph) for case in some]
        errors = np.array([np.hypot(*(p.centre - c.centre)) / c.px_per_mm for p, c in zip(places, some, strict=True)])
        others = [(case, some[(number + step) % len(some)]) for number, case in enumerate(some)]
        wrong = [find_place(other.octa, other.side_mm, case.photograph).is_clear for case, other in others]
        found, right = np.array([place.is_clear for place in places]), errors < NEAR_MM
        values = (len(some), right.sum(), np.median(errors), found.sum(), (found & ~right).sum(), sum(wrong))
        print(table_row(name, values), flush=True)


if __name__ == "__main__":
    main()
