"""Crop each photograph of a table of pairs to the area of its OCT-A, for photographs that show more of the eye.

    python dataset_load_mod.py crop pairs.csv --octa-mm 6 --output DIR              # default weights
    python dataset_load_mod.py crop pairs.csv --octa-mm 6 --output DIR --figures    # also a picture of each match

The network finds the vessels of the complete photograph, and `alignment.find_octa` searches it for the OCT-A. Writes

    DIR/pairs.csv            the table of the photographs, cropped and rotated to match, and copies of their OCT-A;
                             its column original_digest identifies the photograph that each was cropped from
    DIR/crop.csv             a row for each pair: position, scale and angle of the match, and whether it is doubtful
    DIR/crop/<name>.jpg      with --figures: the photograph with the match outlined, cyan if found, orange if doubtful

A doubtful match is hardly better than chance (a wrong partner, or too few vessels), or at the limit of the scales that
are tried (a wrong width or scale). Such pairs are reported and left out of DIR/pairs.csv. Next, `register` aligns each
OCT-A exactly. The input table is never changed. Existing results are kept unless the files
of a pair have changed, and the same command resumes.
"""

import argparse
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from alignment.find_octa import Photograph, Place, corners, cut, find_place
from basics.command_line import (
    OptionError,
    progress_bar,
    report_error,
)
from basics.files import write_table
from pairs.dataset import find_dataset
from pairs.finished import digest_of
from pairs.moved import refuse_moved
from pairs.output import PAIRS, Case, PairRecord, beside_table, check_output, copy_file, write_image
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
FIGURES = "crop"
COLUMNS = (
    "name",
    "fundus",
    WIDTH,
    "centre_row",
    "centre_column",
    "px_per_mm",
    "degrees",
    "score",
    "control",
    "verdict",
)
FOUND, DOUBTFUL = "found", "doubtful"
REASONS = "a wrong partner, too few vessels, or a wrong width or scale?"
PX_PER_MM = 1000 / FIELD_MM  # of the cropped photographs: about that of UT-FSOCTA, which the networks are made for
FIGURE_PX = 600  # height
MARKS = {FOUND: (0, 255, 255), DOUBTFUL: (255, 140, 0)}  # cyan, orange


@dataclass
class Cropping:
    """The cropping of a table's photographs."""

    options: argparse.Namespace
    predictor: Predictor
    record: PairRecord
    output: Path
    sides: dict[Case, float]  # width of each OCT-A, mm
    failed: list[str] = field(default_factory=list)  # unusable files, one line each
    last: tuple[Path, np.ndarray, Photograph, np.ndarray] | None = (
        None  # the last one read: the next row may use it too
    )
    digests: dict[Path, str] = field(default_factory=dict)  # `photo_digest` of the photographs read so far

    def target(self, kind: str, case: Case) -> Path:
        """Where the photograph ("fundus") or the OCT-A ("octa") of a pair is written to, relative to the output."""
        return Path("fundus", f"{case.name}.png") if kind == "fundus" else beside_table("octa", case)

    def figure(self, case: Case) -> Path:
        """Where the picture of a match is written to, if one is wanted."""
        return self.output / FIGURES / f"{case.name}.jpg"

    def is_done(self, case: Case) -> bool:
        """Whether all wanted results of a pair exist, for its present files and width."""
        wanted = [self.output / self.target(kind, case) for kind in FILES]
        wanted += [self.figure(case)] if self.options.figures else []
        return self.record.is_current(case.name) and all(path.exists() for path in wanted)

    def see(self, path: Path) -> tuple[np.ndarray, Photograph, np.ndarray]:
        """A photograph with equal scales along both axes, what the network sees in it, and by how much (2,) each axis
        was enlarged.

        Raises:
            DataError: it cannot be read, or shows nothing, or its scale is unknown.
        """
        if self.last is None or self.last[0] != path:
            fundus = read_fundus(path)
            self.digests[path] = photo_digest(fundus)
            found = field_to_use(fundus, fov_mask=True)
            if not found.mask.any():
                raise DataError(f"{path}: {ENTIRELY_DARK}")
            px_per_mm = self.options.px_per_mm
            if px_per_mm is None and found.radii is None:
                raise DataError(f"{path}: shows no border of the field of view; give --px-per-mm")
            diameter = px_per_mm * FIELD_MM if px_per_mm else found.diameter(self.options.field_degrees)
            shape = fundus.shape[:2]
            fundus, fov = with_equal_scales(fundus, found.mask, found.stretch)
            seen = self.predictor.vessel_probability(fundus, fov, diameter, fast=True)
            enlarged = np.divide(fundus.shape[:2], shape)
            self.last = path, fundus, Photograph(seen, fov, diameter / FIELD_MM), enlarged
        return self.last[1:]

    def original(self, case: Case) -> str:
        """What identifies the photograph of a pair, or the one that it was cropped from earlier: see `photo_digest`."""
        if not case.original_digest and case.fundus not in self.digests:  # its results are of an earlier call
            self.digests[case.fundus] = photo_digest(read_fundus(case.fundus))
        return case.original_digest or self.digests[case.fundus]

    def run(self, case: Case) -> None:
        """Write the results of one pair. Raises DataError if an image is unusable."""
        octa = octa_to_grey(read_octa(case.octa, 1)) / 255  # [0, 255] -> [0, 1]
        fundus, seen, enlarged = self.see(case.fundus)
        side = self.sides[case]
        place = find_place(octa, side, seen)
        shape_mm = side * octa.shape[0] / octa.shape[1], side
        part = cut(fundus, place, shape_mm, PX_PER_MM)
        write_image(self.output / self.target("fundus", case), part)
        copy_file(case.octa, self.output / self.target("octa", case))
        verdict = FOUND if place.is_clear else DOUBTFUL
        if self.options.figures:
            draw_match(self.figure(case), fundus, place, shape_mm, octa, MARKS[verdict])
        else:
            self.figure(case).unlink(missing_ok=True)  # one of an earlier call would show another match
        angle, scores = np.rad2deg(place.angle), (place.score, place.control)
        numbers = (
            *(f"{value:.1f}" for value in (*place.centre / enlarged, place.px_per_mm, angle)),
            *(f"{s:.3f}" for s in scores),
        )
        self.record.add_pair((case.name, case.fundus.as_posix(), f"{side:g}", *numbers, verdict))


def draw_match(
    path: Path,
    fundus: np.ndarray,
    place: Place,
    shape_mm: tuple[float, float],
    octa: np.ndarray,
    colour: tuple[int, int, int],
) -> None:
    """Draw the photograph with the OCT-A's outline in a colour, the crop, and the OCT-A."""
    whole = with_outline(fundus, corners(place, shape_mm), colour)
    write_image(path, side_by_side([whole, cut(fundus, place, shape_mm, PX_PER_MM), to_uint8(octa)], FIGURE_PX))


def sides_of(source: Path, cases: Sequence[Case], octa_mm: float | None) -> dict[Case, float]:
    """The width of each OCT-A in mm: from the table's column, and from the option where the table has none."""
    missing = [case for case in cases if case.octa_mm is None]
    if octa_mm is None and missing:
        raise PairTableError(f"{source}: {missing[0].octa}: has no {WIDTH}; fill in that column, or use --octa-mm")
    if octa_mm is not None and not missing:
        raise OptionError(f"--octa-mm {octa_mm:g}: each row of {source} has its {WIDTH}; change it there")
    return {case: case.octa_mm or octa_mm for case in cases}


# --- the command -----------------------------------------------------------------------------------------------------


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
    output.mkdir(parents=True, exist_ok=True)
    scale = f"{options.px_per_mm:g} px per mm" if options.px_per_mm else f"{options.field_degrees or DEGREES:g} degrees"
    inputs = {case.name: digest_of((case.fundus, case.octa), f"{side:g}") for case, side in sides.items()}
    record = PairRecord(output / RECORD, COLUMNS, f"{made_from(run, weights)}, {scale}", inputs, may_lose=True)
    work = Cropping(options, predictor, record, output, sides)
    todo = [case for case in cases if not work.is_done(case)]
    if kept := len(cases) - len(todo):
        print(f"{kept} of {len(cases)} pairs exist and are kept")
    for case in progress_bar(sorted(todo, key=lambda case: case.fundus), unit="pair"):
        try:
            work.run(case)
        except DataError as error:
            work.failed.append(str(error))
    work.failed = list(dict.fromkeys(work.failed))  # a photograph may have several OCT-A
    write_pairs(work, given)
    done = record.current()
    doubtful = [row for row in done.values() if row["verdict"] == DOUBTFUL]
    print(f"{FOUND} {len(done) - len(doubtful)}, {DOUBTFUL} {len(doubtful)}")
    for row in doubtful:
        print(f"{row['name']} in {row['fundus']}: {DOUBTFUL}, left out of {PAIRS}: {REASONS} See --figures")
    print(f"Written: {output / PAIRS}; {record.path} has a row for each pair that was processed")
    if len(doubtful) < len(done):
        table, run = (shlex.quote(str(path)) for path in (output / PAIRS, run))
        print(f"Next: python dataset_load_mod.py register {table} --output ANOTHER_DIR --run {run}")
    for fault in work.failed:
        report_error("dataset_load_mod.py", fault)
    return 2 if work.failed else 0


def write_pairs(work: Cropping, given: Sequence[tuple[dict[str, str], Case]]) -> None:
    """Write the table of the pairs that were found: all columns of the input table, and WIDTH and ORIGINAL of each.

    Args:
        work: the finished work.
        given: the rows of the input table, each with its pair.
    """
    columns = tuple(dict.fromkeys([*given[0][0], WIDTH, ORIGINAL]))
    found = {name for name, row in work.record.current().items() if row["verdict"] == FOUND}
    rows = [
        row
        | {kind: work.target(kind, case).as_posix() for kind in FILES}
        | {WIDTH: f"{work.sides[case]:g}", ORIGINAL: work.original(case)}
        for row, case in given
        if case.name in found
    ]
    write_table(work.output / PAIRS, columns, rows)
    subjects, left = {case.subject for _, case in given}, {row["subject"] for row in rows}
    if len(left) < len(subjects) and "split" not in columns:
        lack = f"{PAIRS} lacks {len(subjects - left)} of {len(subjects)} subjects"
        print(f"NOTE: {lack}, which can move others to another split; a column split prevents that")
