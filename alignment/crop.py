"""Crop each photograph of some pairs to the area of its OCT-A: the command `python dataset_load_mod.py crop`.

The network finds the vessels of the complete photograph, and `alignment.find_octa` searches it for the OCT-A. A
doubtful match is hardly better than chance (a wrong partner, or too few vessels), or at the limit of the scales that
are tried (a wrong width or scale). `alignment.output` lists what is written.
"""

import argparse
import shlex
from collections.abc import Collection
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignment.find_octa import Photograph, corners, cut, find_place
from alignment.output import PAIRS, Case, NewPairs, open_pairs
from basics.command_line import OptionError, progress_bar
from pairs.table import FILES, ORIGINAL, UNMOVED, WIDTH, PairTableError
from retina.field_of_view import DEGREES, ENTIRELY_DARK, FIELD_MM, field_to_use
from retina.images import DataError, octa_to_grey, photo_digest, read_fundus, read_image, read_octa, to_uint8
from retina.pictures import side_by_side, with_outline
from run.checkpoints import read_run
from run.predict import Predictor, announced_predictor, with_equal_scales
from run.weights import made_from, run_to_use

RECORD = "crop.csv"
COLUMNS = ("fundus", WIDTH, ORIGINAL, "centre_row", "centre_column", "px_per_mm", "degrees", "score", "control")
FOUND, DOUBTFUL = "found", "doubtful"
REMARK = f"left out of {PAIRS}: a wrong partner, too few vessels, or a wrong width or scale? See --figures"
CROP_PX_PER_MM = 1000 / FIELD_MM  # about that of UT-FSOCTA's crops, which the networks are made for
FIGURE_PX = 600  # of a photograph's longer side
MARKS = {FOUND: (0, 255, 255), DOUBTFUL: (255, 140, 0)}  # cyan, orange


class Searched(NamedTuple):
    """A photograph that is searched for its OCT-A."""

    digest: str  # `photo_digest`
    fundus: np.ndarray  # (height, width, 3), uint8, with equal scales along both axes
    vessels: Photograph
    enlarged: np.ndarray  # (2,), by how much each axis was enlarged to that end


def prepare(path: Path, predictor: Predictor, options: argparse.Namespace) -> Searched:
    """Read a photograph and predict its vessels.

    Raises:
        DataError: it cannot be read, or shows nothing, or its scale is unknown.
    """
    fundus = read_fundus(path)
    found = field_to_use(fundus, fov_mask=True)
    if not found.mask.any():
        raise DataError(f"{path}: {ENTIRELY_DARK}")
    px_per_mm = options.px_per_mm
    if px_per_mm is None and found.radii is None:
        raise DataError(f"{path}: shows no border of the field of view; give --px-per-mm")
    diameter = px_per_mm * FIELD_MM if px_per_mm else found.diameter(options.field_degrees)
    digest, shape = photo_digest(fundus), fundus.shape[:2]
    fundus, fov = with_equal_scales(fundus, found.mask, found.stretch)
    probability = predictor.vessel_probability(fundus, fov, diameter, fast=True)
    searched = Photograph(probability, fov, diameter / FIELD_MM)
    return Searched(digest, fundus, searched, np.divide(fundus.shape[:2], shape))


def crop_pair(case: Case, side: float, photograph: Searched, pairs: NewPairs) -> None:
    """Write the results of one pair whose OCT-A is `side` mm wide. Raises DataError if the OCT-A is unusable."""
    octa = octa_to_grey(read_octa(case.octa, 1)) / 255  # [0, 255] -> [0, 1]
    place = find_place(octa, side, photograph.vessels)
    shape_mm = side * octa.shape[0] / octa.shape[1], side
    part = cut(photograph.fundus, place, shape_mm, CROP_PX_PER_MM)
    verdict = FOUND if place.is_clear else DOUBTFUL

    def draw() -> np.ndarray:
        """The photograph with the OCT-A's outline, the crop, and the OCT-A."""
        whole = with_outline(photograph.fundus, corners(place, shape_mm), MARKS[verdict])
        return side_by_side([whole, part, to_uint8(octa)], FIGURE_PX)

    position = (*place.centre / photograph.enlarged, place.px_per_mm, np.rad2deg(place.angle))
    numbers = *(f"{value:.1f}" for value in position), *(f"{value:.3f}" for value in (place.score, place.control))
    values = (case.fundus.as_posix(), f"{side:g}", case.original_digest or photograph.digest, *numbers, verdict)
    pairs.finish(case, [part, read_image(case.octa)], values, draw)


def sides_of(source: str, cases: Collection[Case], octa_mm: float | None) -> dict[Case, float]:
    """The width of each OCT-A in mm: from the table's column, and from the option where the table has none."""
    missing = [case for case in cases if case.octa_mm is None]
    if octa_mm is None and missing:
        raise PairTableError(f"{source}: {missing[0].octa}: has no {WIDTH}; fill in that column, or use --octa-mm")
    if octa_mm is not None and not missing:
        raise OptionError(f"--octa-mm {octa_mm:g}: each row of {source} has its {WIDTH}; change it there")
    return {case: case.octa_mm or octa_mm for case in cases}


def run_cropping(options: argparse.Namespace) -> int:
    """Crop as the options say; returns the exit status: 2 if a file was unusable.

    Raises:
        UserError, OSError: nothing can be cropped, or the program cannot continue.
    """
    given = open_pairs(options, RECORD, unique="octa")
    if any(case.octa_unmoved for case in given):
        raise OptionError(f"DATA {options.data}: is registered (column {UNMOVED}); crop the data that were registered")
    sides = sides_of(options.data, given, options.octa_mm)
    run, why = run_to_use(options.run)
    predictor, weights = announced_predictor(run, options.weights, read_run(run).settings, why)
    scale = f"{options.px_per_mm:g} px per mm" if options.px_per_mm else f"{options.field_degrees or DEGREES:g} degrees"
    settings = {case: f"{side:g} {case.original_digest}" for case, side in sides.items()}
    pairs = NewPairs(options, given, RECORD, COLUMNS, FILES, f"{made_from(run, weights)}, {scale}", settings)
    by_photograph = attrgetter("fundus")
    with progress_bar(sorted(pairs.unfinished(), key=by_photograph), unit="pair") as todo:
        for path, some in groupby(todo, by_photograph):
            with pairs.noting_faults():
                photograph = prepare(path, predictor, options)
                for case in some:
                    with pairs.noting_faults():
                        crop_pair(case, sides[case], photograph, pairs)
    table, run = (shlex.quote(str(path)) for path in (Path(options.output, PAIRS), run))
    next_step = f"dataset_load_mod.py register {table} --output ANOTHER_DIR --run {run}"
    if_none = "No OCT-A was found in its photograph."
    return pairs.report(DOUBTFUL, REMARK, next_step, if_none, without_bad=True, added=(WIDTH, ORIGINAL))
