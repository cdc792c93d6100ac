"""Register each OCT-A of a data set to its photograph: the command `python dataset_load_mod.py register`.

A run that was trained on simulated retinas predicts an OCT-A that is exactly aligned with the photograph. The real
OCT-A is warped onto this prediction, if it then fits better than before, and clearly better than it fits other eyes.
`alignment.output` lists what is written. The new table's column octa_unmoved names the OCT-A before it was moved, on
which the evaluation measures, and from which another registration starts.
"""

import argparse
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import joblib
import numpy as np
from PIL.Image import Resampling

from alignment.output import PAIRS, Case, NewPairs, open_pairs
from alignment.registration import ENTIRELY, Fit, enlarged, fit_all, reduced, reduced_eye, warp
from alignment.search import Masked
from basics.command_line import progress_bar
from pairs.dataset import Pair, load_pair
from pairs.table import FILES, REGISTRATION, SIMULATED, UNMOVED, unmoved_octa
from retina.field_of_view import field_of_view
from retina.images import (
    SMOOTH,
    DataError,
    black_outside,
    octa_to_grey,
    read_fundus,
    read_image,
    resized,
    to_uint8,
)
from retina.vessels import otsu_threshold
from run.checkpoints import read_run
from run.predict import Predictor, announced_predictor
from run.weights import made_from, run_to_use

COLUMNS = ("displacement", "before", "after", "control")
REGISTERED, UNCHANGED, REFUSED = "registered", "already aligned", "not registered"
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


# --- images ----------------------------------------------------------------------------------------------------------


def warped(octa: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """An OCT-A (height, width, 4), uint8, warped by a displacement (2, height, width), px, and of the latter's size.

    A map of two values keeps them. Transparency is not warped.
    """
    is_map = len(np.unique(octa[..., :3])) <= 2
    image = resized(octa, displacement.shape[1:], Resampling.NEAREST if is_map else Resampling.BILINEAR).copy()
    for channel in range(3):
        shifted = warp(image[..., channel].astype(np.float32), displacement, order=0 if is_map else 3)
        image[..., channel] = np.round(np.clip(shifted, 0, 255))
    return image


def drawn(pair: Pair, eye: Masked, displacement: np.ndarray) -> np.ndarray:
    """The photograph, and the OCT-A (cyan) over the prediction (red) before and after: white where they agree."""
    prediction = resized(eye.image, pair.fov.shape)
    octa = octa_to_grey(pair.octa) / 255  # [0, 255] -> [0, 1]
    panels = [pair.fundus]
    for scan in (octa, warp(octa, displacement)):
        panels.append(black_outside(to_uint8(np.dstack([prediction, scan, scan])), pair.fov))
    return np.hstack(panels)


# --- registration ----------------------------------------------------------------------------------------------------


@dataclass
class Registration:
    """The registration of a data set."""

    pairs: NewPairs
    predictor: Predictor
    eyes: dict[Case, Masked | None] = field(default_factory=dict)  # predicted so far; None: unusable

    def run(self) -> None:
        """Register all pairs that have no result yet."""
        todo = self.pairs.unfinished()
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
        """Read a pair, with its unmoved OCT-A, and predict. None, which is noted, for an unusable one."""
        with self.pairs.noting_faults():
            pair = load_pair(case.fundus, unmoved_octa(case), octa_channels=1, fov_mask=True)
            self.predict(case, pair.fundus, pair.fov)
            return pair
        return None

    def predict(self, case: Case, fundus: np.ndarray, fov: np.ndarray) -> None:
        """Set the eye of a case, from its photograph and field, unless it was predicted before."""
        if case not in self.eyes:
            self.eyes[case] = reduced_eye(self.predictor.predict_vessels(fundus, fov), fov)

    def controls(self, case: Case) -> list[Masked]:
        """The eyes that a pair is compared with, see `chosen_controls`: of its region, next in the table."""
        cases = list(self.pairs.given)
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
        """Write the results of a pair, from the fits with its own photograph and with the controls."""
        verdict, eye = verdict_of(own, controls), self.eyes[case]
        displacement = enlarged(own.displacement, pair.fov.shape)
        unmoved = read_image(unmoved_octa(case))
        octa = warped(unmoved, displacement) if verdict == REGISTERED else unmoved
        length = np.hypot(*displacement)[vessels_of(eye, pair.fov.shape)]
        median = np.median(length) if length.size else 0.0
        numbers = (f"{value:.3f}" for value in (median, own.before, own.after, max(one.after for one in controls)))
        images = [pair.fundus, octa, unmoved]
        self.pairs.finish(case, images, (*numbers, verdict), lambda: drawn(pair, eye, displacement))


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
    given = open_pairs(options, REGISTRATION)
    run, why = run_to_use(options.run)
    settings = read_run(run).settings
    predictor, weights = announced_predictor(run, options.weights, settings, why)
    if settings.data != SIMULATED:
        print("NOTE: this run was trained on pairs. Unless they were registered, use one trained on simulated retinas")
    pairs = NewPairs(options, given, REGISTRATION, COLUMNS, (*FILES, UNMOVED), made_from(run, weights), {})
    Registration(pairs, predictor).run()
    next_step = f"pix_pix_train.py --data {shlex.quote(str(Path(options.output, PAIRS)))} --init-from weights"
    if rows := pairs.current().values():
        medians = {column: np.median([float(row[column]) for row in rows]) for column in COLUMNS}
        print("medians: " + ", ".join(f"{column} {value:.2f}" for column, value in medians.items()))
    return pairs.report(REFUSED, REMARK, next_step, NONE_FITS)
