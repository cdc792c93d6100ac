"""Register each OCT-A of a data set to its photograph, because real pairs lie some pixels apart.

    python dataset_load_mod.py register DATA --output DIR              # your newest finished run, or the supplied ones
    python dataset_load_mod.py register DATA --output DIR --figures    # also a picture of each pair, before and after

A run that was trained on simulated retinas predicts an OCT-A that is exactly aligned with the photograph. The real
OCT-A is warped onto this prediction, and so are the vessel maps made from it (cropped/GT_OCT_net), if it then fits
better than before, and clearly better than it fits other eyes. All other files are copied, and DATA is never changed.
DIR gets the layout of DATA, or, for a table, pairs.csv and the images. The unmoved OCT-A and maps are kept for the
evaluation: below cropped/unmoved/, or in the column octa_unmoved. And:

    DIR/registration.csv                          a row for each pair: displacement, correlations, verdict
    DIR/registration/<name of the pair>.png       with --figures

Existing results are kept unless the files of a pair have changed, and the same command resumes.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from PIL.Image import Resampling

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
from alignment.registration import ENTIRELY, Fit, enlarged, fit_all, reduced, reduced_eye, warp
from alignment.search import Masked
from basics.command_line import OptionError, progress_bar
from basics.files import write_table
from pairs.dataset import UNMOVED_FOLDER, Pair, find_dataset, list_eyes, load_data_cases, load_pair
from pairs.moved import REGISTERED, refuse_moved, unmoved_octa
from pairs.origin import digest_of
from pairs.table import ANY_SHARES, FILES, REGISTRATION, SIMULATED, UNMOVED, is_table, rows_of_pairs
from retina.field_of_view import field_of_view
from retina.images import (
    SMOOTH,
    DataError,
    black_outside,
    octa_to_grey,
    read_fundus,
    read_image,
    resized,
    same_aspect_ratio,
    to_uint8,
    visible_below,
)
from retina.vessels import otsu_threshold
from run.checkpoints import read_run
from run.predict import Predictor, announced_predictor
from run.weights import made_from, run_to_use

MADE_FROM_OCTA = ("GT_OCT_net/noThresh", "GT_OCT_net/Thresh")  # below cropped/: maps that move with the OCT-A
IDENTITY = ("name", "subject", "eye", "region")
COLUMNS = (*IDENTITY, "displacement", "before", "after", "control", "verdict")
UNCHANGED, REFUSED = "already aligned", "not registered"
REMARK = "its OCT-A is copied unregistered: remove the pair if its partner is wrong"
NONE_FITS = (
    "No OCT-A fits its photograph. If photographs show more of the eye, crop them first with dataset_load_mod.py crop"
)
MARGIN = 0.12  # in correlation: by how much a pair must fit better than its controls
CONTROLS = 3  # other eyes that a pair is compared with
NEIGHBOURS = 8  # cases next in the table, from which the controls are chosen
MOST_OF_FIELD = 0.7  # of a pair's field, that a control must show
PAIRS_AT_ONCE = 16  # predicted before they are registered: limits the memory
PAIRS_PER_PROCESS = 4  # a process takes two seconds to start: not worth it for fewer pairs


# --- data set --------------------------------------------------------------------------------------------------------


class Moving(NamedTuple):
    """An image that moves with its OCT-A: the OCT-A itself, or a map made from it."""

    source: Path  # as it was before any registration
    target: Path  # that it is written to
    unmoved: Path  # that its unmoved copy is written to


class DataSet(NamedTuple):
    """The data set that is registered, and what is written for it."""

    target: Path  # the data set that is written: contains `cropped`, or is a table
    moving: dict[Case, list[Moving]]  # of each pair
    others: list[tuple[Path, Path]]  # that do not move: source and copy
    rows: list[dict[str, str]]  # of the table that is written, if it is one


def open_data_set(options: argparse.Namespace) -> DataSet:
    """The data set, and a folder for it that this program may write to.

    Raises:
        UserError: there is no pair, or the folder cannot be used.
    """
    source, output = find_dataset(options.data, "DATA"), Path(options.output)
    below = source.relative_to(options.data) if source.is_relative_to(options.data) else Path()
    check_output(output, output / below, source, REGISTRATION)
    found, unpaired = load_data_cases(source, shares=ANY_SHARES)
    if found.empty:
        raise OptionError(f"DATA {source}: contains no pair; `python dataset_load_mod.py check` lists what it contains")
    if unpaired:
        print(f"{len(unpaired)} files have no partner and are copied")
    cases = list(found.itertuples(index=False))
    refuse_moved("DATA", source, cases)
    return table_set(source, output, cases) if is_table(source) else layout_set(source, output / below, cases)


def table_set(source: Path, output: Path, cases: Sequence[Case]) -> DataSet:
    """A table of pairs, whose images are written to fundus/, octa/ and octa_unmoved/ beside the new table."""
    data = DataSet(output / PAIRS, {}, [], [])
    for row, case in rows_of_pairs(source, cases):
        fundus, octa, unmoved = (
            Path(folder, case.name + written_suffix(path))
            for folder, path in zip((*FILES, UNMOVED), (case.fundus, case.octa, case.octa), strict=True)
        )
        data.moving[case] = [Moving(unmoved_octa(case), output / octa, output / unmoved)]
        data.others.append((case.fundus, output / fundus))
        written = {"fundus": fundus, "octa": octa, UNMOVED: unmoved}
        data.rows.append(row | {column: path.as_posix() for column, path in written.items()})
    return data


def layout_set(source: Path, target: Path, cases: Sequence[Case]) -> DataSet:
    """A data set in the layout of UT-FSOCTA; all its files are copied except hidden ones."""
    cropped, unmoved = source / "cropped", source / "cropped" / UNMOVED_FOLDER
    eyes_in, moving = cache(list_eyes), {}

    def placed(path: Path) -> Path:
        return target / path.relative_to(source)

    for case in cases:
        found = [(case.octa, case.octa_unmoved)]
        for name in MADE_FROM_OCTA:
            eyes = (eyes_in(folder / name / case.region) for folder in (cropped, unmoved))
            found.append([some.get((case.subject, case.eye)) for some in eyes])
        moving[case] = [
            Moving(kept or path, *(placed(one).with_suffix(written_suffix(path)) for one in (path, beside)))
            for path, kept in found
            if path is not None and (beside := unmoved / path.relative_to(cropped))
        ]
    moved = {path for some in moving.values() for one in some for path in one}
    files = (path for path in visible_below(source) if path.is_file())
    return DataSet(target, moving, [(path, placed(path)) for path in files if not {path, placed(path)} & moved], [])


# --- files -----------------------------------------------------------------------------------------------------------


def read_warped(source: Path, displacement: np.ndarray) -> np.ndarray:
    """An image warped by a displacement (2, height, width), px: (height, width, 4), uint8, as from `read_image`.

    A map of two values keeps them. Transparency is not warped. An image of another size is resized first.

    Raises:
        DataError: it cannot be read, or has another aspect ratio than the displacement.
    """
    read = read_image(source)
    is_map = len(np.unique(read[..., :3])) <= 2
    size = displacement.shape[1:]
    if not same_aspect_ratio(read.shape, size):
        raise DataError(f"{source}: {read.shape[1]} x {read.shape[0]} px, another aspect ratio than its photograph")
    image = resized(read, size, Resampling.NEAREST if is_map else Resampling.BILINEAR)  # (height, width, 4), uint8
    colours = image[..., :3]
    for channel in range(3):
        shifted = warp(colours[..., channel].astype(np.float32), displacement, order=0 if is_map else 3)
        colours[..., channel] = np.round(np.clip(shifted, 0, 255))
    return image


def draw_pair(path: Path, pair: Pair, eye: Masked, displacement: np.ndarray) -> None:
    """Draw the photograph, and the OCT-A (cyan) over the prediction (red) before and after: white where they agree."""
    prediction = resized(eye.image, pair.fov.shape)
    octa = octa_to_grey(pair.octa) / 255  # [0, 255] -> [0, 1]
    panels = [pair.fundus]
    for scan in (octa, warp(octa, displacement)):
        panels.append(black_outside(to_uint8(np.dstack([prediction, scan, scan])), pair.fov))
    write_image(path, np.hstack(panels))


# --- registration ----------------------------------------------------------------------------------------------------


@dataclass
class Registration:
    """The registration of a data set."""

    data: DataSet
    predictor: Predictor
    record: PairRecord
    eyes: dict[Case, Masked | None] = field(default_factory=dict)  # predicted so far; None: unusable

    def run(self) -> None:
        """Register all pairs that have no result yet."""
        written = {case: [path for one in some for path in one[1:]] for case, some in self.data.moving.items()}
        todo = self.record.unfinished(written)
        processes = max(1, min(os.cpu_count() or 1, len(todo) // PAIRS_PER_PROCESS))
        with (
            progress_bar(total=len(todo), unit="pair") as progress,
            joblib.Parallel(processes, max_nbytes=None) as pool,
        ):
            for first in range(0, len(todo), PAIRS_AT_ONCE):
                some = todo[first : first + PAIRS_AT_ONCE]
                loaded = [(case, pair) for case in some if (pair := self.load(case)) is not None]
                scans = [reduced(octa_to_grey(pair.octa) / 255) for _, pair in loaded]
                against = [[self.eyes[case], *self.controls(case)] for case, _ in loaded]
                fits = pool(joblib.delayed(fit_all)(*both) for both in zip(scans, against, strict=True))
                for (case, pair), (own, *controls) in zip(loaded, fits, strict=True):
                    self.finish(case, pair, own, controls)
                progress.update(len(some))

    def load(self, case: Case) -> Pair | None:
        """Read a pair, with its unmoved OCT-A, and predict. An unusable one is noted and copied unregistered."""
        with self.record.noting_faults():
            pair = load_pair(case.fundus, unmoved_octa(case), octa_channels=1, fov_mask=True)
            self.predict(case, pair.fundus, pair.fov)
            return pair
        self.copy_readable(case)
        return None

    def predict(self, case: Case, fundus: np.ndarray, fov: np.ndarray) -> None:
        """Set the eye of a case, from its photograph and field, unless it was predicted before."""
        if case not in self.eyes:
            self.eyes[case] = reduced_eye(self.predictor.predict_vessels(fundus, fov), fov)

    def controls(self, case: Case) -> list[Masked]:
        """The eyes that a pair is compared with, see `chosen_controls`: of its region, next in the table."""
        cases = list(self.data.moving)
        place = cases.index(case)
        following = cases[place + 1 :] + cases[:place]
        others = [other for other in following if other.region == case.region and not may_be_one_eye(case, other)]
        for other in others[:NEIGHBOURS]:
            if other not in self.eyes:
                try:
                    fundus = read_fundus(other.fundus)
                    self.predict(other, fundus, field_of_view(fundus))
                except DataError:
                    self.eyes[other] = None  # reported with its pair
        return chosen_controls(self.eyes[case], [self.eyes[other] for other in others[:NEIGHBOURS]])

    def finish(self, case: Case, pair: Pair, own: Fit, controls: Sequence[Fit]) -> None:
        """Write the results of a pair, from the fits with its own photograph and with the controls.

        If a map that was made from the OCT-A is unusable, so is the pair: it is noted and copied unregistered.
        """
        verdict, eye = verdict_of(own, controls), self.eyes[case]
        displacement = enlarged(own.displacement, pair.fov.shape)
        moving = self.data.moving[case] if verdict == REGISTERED else []
        try:
            images = [(target, read_warped(path, displacement)) for path, target, _ in moving]
            for path, target, unmoved in self.data.moving[case]:
                copy_file(path, unmoved)
                if verdict != REGISTERED:
                    copy_file(path, target)
        except DataError as error:
            self.record.failed.append(str(error))
            self.copy_readable(case)
            return
        for target, image in images:
            write_image(target, image)
        length = np.hypot(*displacement)[vessels_of(eye, pair.fov.shape)]
        median = np.median(length) if length.size else 0.0
        numbers = (f"{value:.3f}" for value in (median, own.before, own.after, max(one.after for one in controls)))
        values = (*(getattr(case, column) for column in IDENTITY), *numbers, verdict)
        self.record.finish(values, lambda path: draw_pair(path, pair, eye, displacement))

    def copy_readable(self, case: Case) -> None:
        """Copy unregistered what can be read of an unusable pair's OCT-A and maps; what cannot is reported already."""
        for path, *written in self.data.moving[case]:
            for target in written:
                with suppress(DataError):
                    copy_file(path, target)


def verdict_of(own: Fit, controls: Sequence[Fit]) -> str:
    """The verdict on a pair, from how its OCT-A fits its own photograph and each control."""
    if own.after < max(fit.after for fit in controls) + MARGIN:
        return REFUSED
    return REGISTERED if own.after > own.before else UNCHANGED


def may_be_one_eye(case: Case, other: Case) -> bool:
    """Whether two cases may show the same region of one eye: a table may list it twice, or without its side."""
    same = (case.subject, case.region) == (other.subject, other.region)
    return same and (case.eye == other.eye or "" in (case.eye, other.eye))


def chosen_controls(own: Masked, near: Sequence[Masked | None]) -> list[Masked]:
    """The CONTROLS eyes that show most of an eye's field, limited to it; with its mirror images if there are too few.

    An eye that shows little of the field might fit by chance.
    """
    size, limited = own.mask.shape, []
    for eye in near:
        if eye is not None:
            fov = resized(eye.mask.astype(np.float32), size, SMOOTH) > ENTIRELY
            limited.append(Masked(resized(eye.image, size, SMOOTH), fov & own.mask))
    usable = [eye for eye in limited if eye.mask.sum() >= MOST_OF_FIELD * own.mask.sum()]
    chosen = sorted(usable, key=lambda eye: -eye.mask.sum())[:CONTROLS]
    return chosen if len(chosen) == CONTROLS else chosen + own.mirrored()


def vessels_of(eye: Masked, shape: tuple[int, int]) -> np.ndarray:
    """Where the network predicts vessels: (height, width), bool, of a shape."""
    prediction, fov = eye.image.astype(np.float32), eye.mask
    threshold = otsu_threshold(prediction[fov]) if fov.any() else np.nan
    return resized(fov & (prediction > threshold), shape, Resampling.NEAREST)


def run_registration(options: argparse.Namespace) -> int:
    """Register as the options say; returns the exit status: 2 if a file was unusable.

    Raises:
        UserError, OSError: nothing can be registered, or the program cannot continue.
    """
    data = open_data_set(options)
    run, why = run_to_use(options.run)
    settings = read_run(run).settings
    predictor, weights = announced_predictor(run, options.weights, settings, why)
    if settings.data != SIMULATED:
        print("NOTE: this run was trained on pairs. Unless they were registered, use one trained on simulated retinas")
    inputs = {case.name: digest_of([case.fundus, *(one.source for one in some)]) for case, some in data.moving.items()}
    record = PairRecord(
        Path(options.output) / REGISTRATION,
        COLUMNS,
        made_from(run, weights),
        inputs,
        ".png",
        options.figures,
        may_lose=bool(data.rows),  # in a layout, the files of lost pairs would stay part of the data
    )
    mark_simulated(options.data, record.path.parent)
    print(f"{len(data.moving)} pairs -> {data.target}")
    for source, copy in data.others:
        with record.noting_faults():
            copy_file(source, copy)
    if data.rows:
        write_table(data.target, tuple(data.rows[0]), data.rows)
    Registration(data, predictor, record).run()
    next_step = f"pix_pix_train.py --data {shlex.quote(str(data.target))} --init-from weights"
    return record.report(data.target, REFUSED, REMARK, next_step, NONE_FITS)
