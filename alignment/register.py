"""Register each OCT-A of a data set to its photograph, because real pairs lie some pixels apart.

    python dataset_load_mod.py register DATA --output DIR              # your newest finished run, or the supplied ones
    python dataset_load_mod.py register DATA --output DIR --figures    # also a picture of each pair, before and after

A run that was trained on simulated retinas predicts an OCT-A that is exactly aligned with the photograph. The real
OCT-A is moved onto this prediction, and so are the vessel maps made from it (cropped/GT_OCT_net). All other files are
copied, and DATA is never changed. DIR gets the layout of DATA, or, for a table, pairs.csv and the images. The unmoved
OCT-A and maps are kept for the evaluation: below cropped/unmoved/, or in the column octa_unmoved. And:

    DIR/registration.csv                          a row for each pair: displacement, correlations, verdict
    DIR/registration/<name of the pair>.png       with --figures

An OCT-A is moved only if it then fits better than before, and clearly better than it fits the predictions for other
eyes when moved in the same way. It is copied if it already lies well. Otherwise it is copied unregistered and reported.
Existing results are kept unless the files of a pair have changed, and the same command resumes.
"""

import argparse
import os
import shlex
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import joblib
import numpy as np
from PIL.Image import Resampling

from alignment.registration import Eye, Fit, enlarged, fit_all, reduced, reduced_eye, warp
from basics.command_line import OptionError, progress_bar, report_error
from basics.files import write_table
from pairs.dataset import UNMOVED_FOLDER, Pair, find_dataset, list_eyes, load_data_cases, load_pair
from pairs.finished import digest_of
from pairs.moved import REGISTERED, refuse_moved, unmoved_octa
from pairs.output import PAIRS, Case, PairRecord, beside_table, check_output, copy_file, write_image
from pairs.table import ANY_SHARES, FILES, REGISTRATION, SIMULATED, UNMOVED, is_table, rows_of_pairs
from retina.field_of_view import field_of_view
from retina.images import (
    WRITTEN_FORMATS,
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
FIGURES = "registration"
IDENTITY = ("name", "subject", "eye", "region")
COLUMNS = (*IDENTITY, "displacement", "before", "after", "control", "verdict")
UNCHANGED, REFUSED = "lies well", "not registered"
REMARK = "its OCT-A is copied unregistered: remove the pair if its partner is wrong"
CLEARLY = 0.12  # in correlation: by how much a pair must fit better than its controls
CONTROLS = 3  # other eyes that a pair is compared with
NEIGHBOURS = 8  # cases next in the table, from which the controls are chosen
MOST_OF_FIELD = 0.7  # of a pair's field, that a control must show
PAIRS_AT_ONCE = 16  # predicted before they are registered: limits the memory
PAIRS_PER_PROCESS = 4  # a process takes two seconds to start: not worth it for fewer pairs


# --- data set --------------------------------------------------------------------------------------------------------


class Moving(NamedTuple):
    """An image that moves with its OCT-A."""

    source: Path  # as it was before any registration
    target: Path  # that it is written to
    unmoved: Path  # that its unmoved copy is written to


@dataclass(frozen=True)
class DataSet:
    """The data set that is registered, in the layout of UT-FSOCTA, and where it is written to."""

    source: Path  # contains `cropped`
    target: Path  # likewise, of the result
    cases: list[Case]

    def moving(self, case: Case) -> list[Moving]:
        """The OCT-A of a case and the maps made from it; of data that are registered already, the unmoved ones."""
        key, cropped = (case.subject, case.eye), self.source / "cropped"
        unmoved = cropped / UNMOVED_FOLDER
        found: list[tuple[Path | None, Path | None]] = [(case.octa, case.octa_unmoved)]
        for name in MADE_FROM_OCTA:
            found.append(tuple(list_eyes(folder / name / case.region).get(key) for folder in (cropped, unmoved)))
        return [
            Moving(kept or path, *(in_written_format(self.placed(place)) for place in (path, beside)))
            for path, kept in found
            if path is not None
            for beside in [unmoved / path.relative_to(cropped)]
        ]

    def placed(self, path: Path) -> Path:
        """The path that a file is written to."""
        return self.target / path.relative_to(self.source)

    def copy_others(self) -> list[str]:
        """Copy the files that do not move, except hidden files.

        Returns:
            A line for each that cannot be read; not for photographs of pairs, which are reported with their pair.
        """
        moving = {path for case in self.cases for moving in self.moving(case) for path in moving}
        photographs, failed = {case.fundus for case in self.cases}, []
        for path in visible_below(self.source):
            if path.is_file() and path not in moving and (target := self.placed(path)) not in moving:
                try:
                    copy_file(path, target)
                except DataError as error:
                    failed += [] if path in photographs else [str(error)]
        return failed


class DataTable(DataSet):
    """A table of pairs that is registered, and where it is written to, with its images in fundus/ and octa/."""

    def moving(self, case: Case) -> list[Moving]:
        """The OCT-A of a case; in a table that is registered already, the unmoved one."""
        written = self.written(case)
        return [Moving(unmoved_octa(case), *(self.target.parent / written[column] for column in ("octa", UNMOVED)))]

    def written(self, case: Case) -> dict[str, Path]:
        """The files of a case in the written table, relative to it, by column."""
        fundus, octa = (beside_table(kind, case) for kind in FILES)
        return {"fundus": fundus, "octa": octa, UNMOVED: Path(UNMOVED, *octa.parts[1:])}

    def copy_others(self) -> list[str]:
        """Copy the photographs, and write the table, with all its columns; returns an empty list, see DataSet."""
        rows = []
        for row, case in rows_of_pairs(self.source, self.cases):
            written = self.written(case)
            rows.append(row | {column: path.as_posix() for column, path in written.items()})
            with suppress(DataError):
                copy_file(case.fundus, self.target.parent / written["fundus"])
        write_table(self.target, tuple(rows[0]), rows)
        return []


def open_data_set(options: argparse.Namespace) -> DataSet:
    """The data set, and a folder for it that this program may write to.

    Raises:
        UserError: there is no pair, or the folder cannot be used.
    """
    source, output = find_dataset(options.data, "DATA"), Path(options.output)
    below = source.relative_to(options.data) if source.is_relative_to(options.data) else Path()
    check_output(output, output / below, source, REGISTRATION)
    cases, unpaired = load_data_cases(source, shares=ANY_SHARES)
    if cases.empty:
        raise OptionError(f"DATA {source}: contains no pair; `python dataset_load_mod.py check` lists what it contains")
    if unpaired:
        print(f"{len(unpaired)} files have no partner and are copied")
    rows = list(cases.itertuples(index=False))
    refuse_moved("DATA", source, rows)
    return DataTable(source, output / PAIRS, rows) if is_table(source) else DataSet(source, output / below, rows)


def in_written_format(path: Path) -> Path:
    """The path that an image is written to: as PNG if its format is not one that pairs are written in."""
    return path if path.suffix.lower() in WRITTEN_FORMATS else path.with_suffix(".png")


# --- files -----------------------------------------------------------------------------------------------------------


def read_moved(source: Path, displacement: np.ndarray) -> np.ndarray:
    """An image moved by a displacement (2, height, width), px: (height, width, 4), uint8, as from `read_image`.

    A map of two values keeps them. Transparency is not moved. An image of another size is resized first.

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


def draw_pair(path: Path, pair: Pair, eye: Eye, displacement: np.ndarray) -> None:
    """Draw the photograph, and the OCT-A (cyan) over the prediction (red) before and after: white where they agree."""
    prediction = resized(eye.prediction, pair.fov.shape)
    octa = octa_to_grey(pair.octa) / 255  # [0, 255] -> [0, 1]
    panels = [pair.fundus]
    for scan in (octa, warp(octa, displacement)):
        panels.append(black_outside(to_uint8(np.dstack([prediction, scan, scan])), pair.fov))
    write_image(path, np.hstack(panels))


# --- registration ----------------------------------------------------------------------------------------------------


def verdict_of(own: Fit, controls: Sequence[Fit]) -> str:
    """The verdict on a pair, from how its OCT-A fits its own photograph and each control."""
    if own.after < max(fit.after for fit in controls) + CLEARLY:
        return REFUSED
    return REGISTERED if own.after > own.before else UNCHANGED


@dataclass
class Registration:
    """The registration of a data set."""

    data: DataSet
    predictor: Predictor
    table: PairRecord
    with_figures: bool
    eyes: dict[Case, Eye | None] = field(default_factory=dict)  # predicted so far; None: unusable
    failed: list[str] = field(default_factory=list)  # unusable files, one line each

    def figure(self, case: Case) -> Path:
        """Where the picture of a pair is written to, if one is wanted."""
        return self.table.path.parent / FIGURES / f"{case.name}.png"

    def is_done(self, case: Case) -> bool:
        """Whether all wanted results of a pair exist, for its present files."""
        wanted = [path for _, *written in self.data.moving(case) for path in written]
        wanted += [self.figure(case)] if self.with_figures else []
        return self.table.is_current(case.name) and all(path.exists() for path in wanted)

    def see(self, case: Case, fundus: np.ndarray, fov: np.ndarray) -> Eye:
        """What the network sees in a photograph; the result is kept."""
        if case not in self.eyes:
            seen = octa_to_grey(self.predictor.predict(fundus, fov, with_noise=False))
            self.eyes[case] = reduced_eye(seen, fov)
        return self.eyes[case]

    def eye(self, case: Case) -> Eye | None:
        """The same for a case; None if its photograph is unusable, which is reported with its pair."""
        if case not in self.eyes:
            try:
                fundus = read_fundus(case.fundus)
                self.see(case, fundus, field_of_view(fundus))
            except DataError:
                self.eyes[case] = None
        return self.eyes[case]

    def pair(self, case: Case) -> Pair:
        """Read a pair, with its unmoved OCT-A. Raises DataError as `load_pair`."""
        return load_pair(case.fundus, unmoved_octa(case), octa_channels=1, fov_mask=True)

    def load(self, case: Case) -> tuple[Case, Pair, Eye] | None:
        """Read and predict a pair. If it is unusable, note it, copy it unregistered and return None."""
        try:
            pair = self.pair(case)
        except DataError as error:
            self.give_up(case, error)
            return None
        return case, pair, self.see(case, pair.fundus, pair.fov)

    def give_up(self, case: Case, error: DataError) -> None:
        """Note why a pair is unusable, and copy unregistered what can be read of it."""
        self.failed.append(str(error))
        with suppress(DataError):  # it is reported already
            self.copy(case)

    def copy(self, case: Case) -> None:
        """Copy a pair's OCT-A, and the maps made from it, unregistered."""
        for path, *written in self.data.moving(case):
            for target in written:
                copy_file(path, target)

    def others_of(self, case: Case) -> list[Case]:
        """The cases of the same region that show other eyes, in the order of the table, starting after this case."""
        place = self.data.cases.index(case)
        following = self.data.cases[place + 1 :] + self.data.cases[:place]
        return [other for other in following if other.region == case.region and not may_be_one_eye(case, other)]

    def controls(self, case: Case, own: Eye) -> list[Eye]:
        """The eyes that a pair is compared with: see `chosen_controls`."""
        return chosen_controls(own, [self.eye(other) for other in self.others_of(case)[:NEIGHBOURS]])

    def finish(self, case: Case, pair: Pair, fits: Sequence[Fit]) -> None:
        """Write the results of a pair; `fits` are with its own photograph and with the controls.

        If a map that was made from the OCT-A is unusable, so is the pair: it is noted and copied unregistered.
        """
        own, *controls = fits
        verdict = verdict_of(own, controls)
        displacement = enlarged(own.displacement, pair.fov.shape)
        images = []
        try:
            if verdict == REGISTERED:
                for path, target, unmoved in self.data.moving(case):
                    images.append((target, read_moved(path, displacement)))
                    copy_file(path, unmoved)
            else:
                self.copy(case)
        except DataError as error:
            self.give_up(case, error)
            return
        for target, image in images:
            write_image(target, image)
        if self.with_figures:
            draw_pair(self.figure(case), pair, self.eyes[case], displacement)
        else:
            self.figure(case).unlink(missing_ok=True)  # one of an earlier call would show another result
        length = np.hypot(*displacement)[vessels_of(self.eyes[case], pair.fov.shape)]
        median = float(np.median(length)) if length.size else 0.0
        numbers = (f"{value:.3f}" for value in (median, own.before, own.after, max(fit.after for fit in controls)))
        self.table.add_pair((*(getattr(case, column) for column in IDENTITY), *numbers, verdict))


def may_be_one_eye(case: Case, other: Case) -> bool:
    """Whether two cases may show the same region of one eye: a table may list it twice, or without its side."""
    same = (case.subject, case.region) == (other.subject, other.region)
    return same and (case.eye == other.eye or "" in (case.eye, other.eye))


def chosen_controls(own: Eye, near: Sequence[Eye | None]) -> list[Eye]:
    """The CONTROLS eyes that show most of an eye's field, limited to it; with its mirror images if there are too few.

    An eye that shows little of the field might fit by chance.
    """
    limited = [eye.within(own.fov) for eye in near if eye is not None]
    usable = [eye for eye in limited if eye.fov.sum() >= MOST_OF_FIELD * own.fov.sum()]
    chosen = sorted(usable, key=lambda eye: -eye.fov.sum())[:CONTROLS]
    return chosen if len(chosen) == CONTROLS else chosen + own.mirrored()


def vessels_of(eye: Eye, shape: tuple[int, int]) -> np.ndarray:
    """Where the network sees vessels: (height, width), bool, of a shape."""
    prediction, fov = eye.prediction.astype(np.float32), eye.fov
    threshold = otsu_threshold(prediction[fov]) if fov.any() else np.nan
    return resized(fov & (prediction > threshold), shape, Resampling.NEAREST)


def register(work: Registration) -> None:
    """Register all pairs that have no result yet."""
    todo = [case for case in work.data.cases if not work.is_done(case)]
    if kept := len(work.data.cases) - len(todo):
        print(f"{kept} of {len(work.data.cases)} pairs exist and are kept")
    processes = max(1, min(os.cpu_count() or 1, len(todo) // PAIRS_PER_PROCESS))
    with progress_bar(total=len(todo), unit="pair") as progress, joblib.Parallel(processes, max_nbytes=None) as pool:
        for first in range(0, len(todo), PAIRS_AT_ONCE):
            some = todo[first : first + PAIRS_AT_ONCE]
            loaded = [found for case in some if (found := work.load(case)) is not None]
            against = [work.controls(case, own) for case, _, own in loaded]
            scans = [reduced(octa_to_grey(pair.octa) / 255) for _, pair, _ in loaded]
            results = pool(
                joblib.delayed(fit_all)(scan, [own, *controls])
                for scan, (_, _, own), controls in zip(scans, loaded, against, strict=True)
            )
            for (case, pair, _), fits in zip(loaded, results, strict=True):
                work.finish(case, pair, fits)
            progress.update(len(some))


# --- the command -----------------------------------------------------------------------------------------------------


def run_registration(options: argparse.Namespace) -> int:
    """Register as the options say; returns the exit status: 2 if a file was unusable.

    Raises:
        UserError, OSError: nothing can be registered, or the program cannot continue.
    """
    data = open_data_set(options)
    run, why = run_to_use(options.run)
    settings, _ = read_run(run)
    predictor, weights = announced_predictor(run, options.weights, settings, why)
    if settings.data != SIMULATED:
        print("NOTE: this run was trained on pairs. Unless they were registered, use one trained on simulated retinas")
    output = Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    inputs = {case.name: digest_of([case.fundus, *(path for path, *_ in data.moving(case))]) for case in data.cases}
    may_lose = isinstance(data, DataTable)  # in a layout, the files of lost pairs would stay part of the data
    table = PairRecord(output / REGISTRATION, COLUMNS, made_from(run, weights), inputs, may_lose)
    print(f"{len(data.cases)} pairs -> {data.target}")
    work = Registration(data, predictor, table, options.figures, failed=data.copy_others())
    register(work)
    rows = table.current()
    verdicts = Counter(row["verdict"] for row in rows.values())
    print(", ".join(f"{verdict} {number}" for verdict, number in verdicts.most_common()))
    for name, row in rows.items():
        if row["verdict"] not in (REGISTERED, UNCHANGED):
            print(f"{name}: {row['verdict']}; {REMARK}")
    print(f"Written: {data.target}; {table.path} has a row for each pair that could be read")
    if verdicts[REGISTERED] + verdicts[UNCHANGED]:
        print(f"Next: python pix_pix_train.py --data {shlex.quote(str(data.target))} --init-from weights")
    else:
        print(
            "No OCT-A fits its photograph. If photographs show more of the eye, crop them first with "
            "dataset_load_mod.py crop"
        )
    for fault in work.failed:
        report_error("dataset_load_mod.py", fault)
    return 2 if work.failed else 0
