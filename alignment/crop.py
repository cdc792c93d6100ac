"""Crop each photograph of a table of pairs to the area of its OCT-A, for photographs that show more of the eye.

    python dataset_load_mod.py crop pairs.csv --octa-mm 6 --output DIR              # default weights
    python dataset_load_mod.py crop pairs.csv --octa-mm 6 --output DIR --figures    # also a picture of each match

The network finds the vessels of the complete photograph, and `alignment.find_octa` searches it for the OCT-A. Writes

    DIR/pairs.csv            the table of the photographs, cropped and rotated to match, and copies of their OCT-A
    DIR/crop.csv             a row for each pair: position, scale and angle of the match, and whether it is doubtful
    DIR/crop/<name>.jpg      with --figures: the photograph with the match outlined, cyan if found, orange if doubtful

A doubtful match is hardly better than chance (a wrong partner, or too few vessels), or at the limit of the scales that
are tried (a wrong width or scale). Such pairs are reported and left out of DIR/pairs.csv. Next, `register` aligns each
OCT-A exactly. The input is never changed, and the same command resumes.
"""

import argparse
import shlex
from collections.abc import Sequence
from functools import cache
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from alignment.find_octa import Photograph, corners, cut, find_place
from alignment.output import (
    PAIRS,
    Case,
    PairRecord,
    check_output,
    copy_file,
    mark_simulated,
    write_image,
    written_suffix,
)
from basics.command_line import OptionError, progress_bar
from basics.files import write_table
from pairs.dataset import find_dataset
from pairs.moved import refuse_moved
from pairs.origin import digest_of
from pairs.table import (
    ANY_SHARES,
    FILES,
    ORIGINAL,
    UNMOVED,
    WIDTH,
    PairTableError,
    is_table,
    read_pairs,
    rows_of_pairs,
)
from retina.field_of_view import DEGREES, ENTIRELY_DARK, FIELD_MM, field_to_use
from retina.images import DataError, octa_to_grey, photo_digest, read_fundus, read_octa, to_uint8
from retina.pictures import side_by_side, with_outline
from run.checkpoints import read_run
from run.predict import Predictor, announced_predictor, with_equal_scales
from run.weights import made_from, run_to_use

RECORD = "crop.csv"
COLUMNS = (
    *("name", "fundus", WIDTH, "centre_row", "centre_column", "px_per_mm", "degrees"),
    *("score", "control", "verdict"),
)
FOUND, DOUBTFUL = "found", "doubtful"
REMARK = f"left out of {PAIRS}: a wrong partner, too few vessels, or a wrong width or scale? See --figures"
CROP_PX_PER_MM = 1000 / FIELD_MM  # about that of UT-FSOCTA's crops, which the networks are made for
FIGURE_PX = 600  # of a photograph's longer side
MARKS = {FOUND: (0, 255, 255), DOUBTFUL: (255, 140, 0)}  # cyan, orange


class Searched(NamedTuple):
    """A photograph that is searched for its OCT-A."""

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
    shape = fundus.shape[:2]
    fundus, fov = with_equal_scales(fundus, found.mask, found.stretch)
    probability = predictor.vessel_probability(fundus, fov, diameter, fast=True)
    return Searched(fundus, Photograph(probability, fov, diameter / FIELD_MM), np.divide(fundus.shape[:2], shape))


def target(kind: str, case: Case) -> Path:
    """Where the photograph ("fundus") or the OCT-A ("octa") of a pair is written to, relative to the table."""
    return Path(kind, case.name + (".png" if kind == "fundus" else written_suffix(case.octa)))


def crop_pair(case: Case, side: float, photograph: Searched, record: PairRecord) -> None:
    """Write the results of one pair whose OCT-A is `side` mm wide. Raises DataError if the OCT-A is unusable."""
    output = record.path.parent
    octa = octa_to_grey(read_octa(case.octa, 1)) / 255  # [0, 255] -> [0, 1]
    place = find_place(octa, side, photograph.vessels)
    shape_mm = side * octa.shape[0] / octa.shape[1], side
    part = cut(photograph.fundus, place, shape_mm, CROP_PX_PER_MM)
    write_image(output / target("fundus", case), part)
    copy_file(case.octa, output / target("octa", case))
    verdict = FOUND if place.is_clear else DOUBTFUL

    def draw(path: Path) -> None:
        """Draw the photograph with the OCT-A's outline, the crop, and the OCT-A."""
        whole = with_outline(photograph.fundus, corners(place, shape_mm), MARKS[verdict])
        write_image(path, side_by_side([whole, part, to_uint8(octa)], FIGURE_PX))

    position = (*place.centre / photograph.enlarged, place.px_per_mm, np.rad2deg(place.angle))
    numbers = *(f"{value:.1f}" for value in position), *(f"{value:.3f}" for value in (place.score, place.control))
    record.finish((case.name, case.fundus.as_posix(), f"{side:g}", *numbers, verdict), draw)


def sides_of(source: Path, cases: Sequence[Case], octa_mm: float | None) -> dict[Case, float]:
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
    source, output = find_dataset(options.data, "TABLE"), Path(options.output)
    if not is_table(source):
        raise OptionError(f"TABLE {source}: is a folder; give a table of pairs")
    cases = read_pairs(source, ANY_SHARES, unique="octa")
    if any(case.octa_unmoved for case in cases):
        raise OptionError(f"TABLE {source}: is registered (column {UNMOVED}); crop the table that was registered")
    refuse_moved("TABLE", source, cases)
    given = rows_of_pairs(source, cases, unique="octa")
    check_output(output, output, source, RECORD)
    sides = sides_of(source, cases, options.octa_mm)
    run, why = run_to_use(options.run)
    predictor, weights = announced_predictor(run, options.weights, read_run(run)[0], why)
    scale = f"{options.px_per_mm:g} px per mm" if options.px_per_mm else f"{options.field_degrees or DEGREES:g} degrees"
    inputs = {case.name: digest_of((case.fundus, case.octa), f"{side:g}") for case, side in sides.items()}
    made_with = f"{made_from(run, weights)}, {scale}"
    record = PairRecord(output / RECORD, COLUMNS, made_with, inputs, ".jpg", options.figures, may_lose=True)
    mark_simulated(source, output)
    todo = record.unfinished({case: [output / target(kind, case) for kind in FILES] for case in cases})
    by_photograph = attrgetter("fundus")
    with progress_bar(sorted(todo, key=by_photograph), unit="pair") as pairs:
        for path, some in groupby(pairs, by_photograph):
            with record.noting_faults():
                photograph = prepare(path, predictor, options)
                for case in some:
                    with record.noting_faults():
                        crop_pair(case, sides[case], photograph, record)
    write_pairs(record, given, sides)
    table, run = (shlex.quote(str(path)) for path in (output / PAIRS, run))
    next_step = f"dataset_load_mod.py register {table} --output ANOTHER_DIR --run {run}"
    return record.report(output / PAIRS, DOUBTFUL, REMARK, next_step, "No OCT-A was found in its photograph.")


def write_pairs(record: PairRecord, given: Sequence[tuple[dict[str, str], Case]], sides: dict[Case, float]) -> None:
    """Write the table of the pairs that were found: all columns of the input table, and WIDTH and ORIGINAL of each.

    Args:
        record: of the finished pairs.
        given: the rows of the input table, each with its pair.
        sides: width of each OCT-A, mm.
    """
    digest = cache(lambda path: photo_digest(read_fundus(path)))
    columns = tuple(dict.fromkeys([*given[0][0], WIDTH, ORIGINAL]))
    found = {name for name, row in record.current().items() if row["verdict"] == FOUND}
    rows = [
        row
        | {kind: target(kind, case).as_posix() for kind in FILES}
        | {WIDTH: f"{sides[case]:g}", ORIGINAL: case.original_digest or digest(case.fundus)}
        for row, case in given
        if case.name in found
    ]
    write_table(record.path.parent / PAIRS, columns, rows)
    subjects, left = {case.subject for _, case in given}, {row["subject"] for row in rows}
    if len(left) < len(subjects) and "split" not in columns:
        lack = f"{PAIRS} lacks {len(subjects - left)} of {len(subjects)} subjects"
        print(f"NOTE: {lack}, which can move others to another split; a column split prevents that")
